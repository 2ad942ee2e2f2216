"""Convolutions of small feature maps as matrix products, which are faster on CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unshaken.base.types import Float

MOST_PIXELS = 16
"""The largest output map, h · w, that is computed as a product, unless another limit is given. On 4×4 pixels with 512
channels, PyTorch's convolution spends more time on reordering its 2.4 million weights in memory than on multiplying."""
LEAST_CHANNELS = 256
"""The least number of input channels: with fewer, there are few weights to reorder."""


class MatmulConv2d(nn.Conv2d):
    """A convolution that is computed as a matrix product if its output map has at most `most_pixels`; 0: never."""

    most_pixels: int = MOST_PIXELS

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        (k, _), (stride, _), (padding, _) = self.kernel_size, self.stride, self.padding  # square: see `may_be_product`
        h, w = ((side + 2 * padding - k) // stride + 1 for side in x.shape[2:])  # pyright: ignore[reportOperatorIssue]
        if h * w > self.most_pixels or x.device.type != "cpu":
            return super().forward(x)
        if x.dtype == torch.float32 and stride == 1:
            y = ShiftedSum.apply(x, self.weight, padding)
        else:  # `ShiftedSum` is for stride 1 only, and its sum of many products would round too much in bf16
            y = PatchProduct.apply(x, self.weight.to(x.dtype), stride, padding)
        return y if self.bias is None else y + self.bias.to(x.dtype)[:, None, None]


def use_matmul_convs(net: nn.Module, most_pixels: int = MOST_PIXELS) -> None:
    """Replace, in place, the convolutions that may become faster; they keep their parameters.

    most_pixels  the largest output map that is computed as a product; 0: none, also where one was before
    """
    for name, module in list(net.named_modules()):
        if (
            most_pixels and type(module) is nn.Conv2d and may_be_product(module)
        ):  # a subclass may compute something else
            net.set_submodule(name, module := _as_matmul(module))
        if isinstance(module, MatmulConv2d) and may_be_product(module):
            module.most_pixels = most_pixels


def may_be_product(conv: nn.Conv2d) -> bool:
    """Return whether a convolution can be computed as a matrix product, and has weights enough to gain by it."""
    # the set of letters of padding="same" has more than one item, so such a convolution stays as it is
    square = all(len({*pair}) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    plain = conv.padding_mode == "zeros" and conv.groups == 1 and conv.dilation == (1, 1)
    return square and plain and conv.kernel_size[0] > 1 and conv.in_channels >= LEAST_CHANNELS


def _as_matmul(conv: nn.Conv2d) -> MatmulConv2d:
    arguments = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    # "meta" allocates no memory for the parameters, which are replaced at once
    made = MatmulConv2d(*arguments, bias=conv.bias is not None, device="meta").train(conv.training)  # pyright: ignore[reportArgumentType]
    made.weight, made.bias = conv.weight, conv.bias
    return made


class ShiftedSum(torch.autograd.Function):
    """y[i] = Σ_a x[i + a − p] W[a], where i and a are positions (row, column) in y and in the kernel; p is the padding.

    Terms without a pixel i + a − p are left out. There is one matrix product per kernel position and row of pixels. No
    product includes the padding's zeros, which are 31 % of what a 3 × 3 kernel reads on 4 × 4 pixels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        sides = [length + 2 * padding - weight.shape[-1] + 1 for length in x.shape[2:]]
        x, weight = _by_pixel(x), weight.permute(2, 3, 1, 0)  # (k k C D)
        y = x.new_zeros(*sides, x.shape[2], weight.shape[-1])
        for a, b, target, source in shifted_rows(y, x, weight.shape[0], padding):
            _row(y, target).addmm_(_row(x, source), weight[a, b])
        return _by_image(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, x, weight = _by_pixel(grad), _by_pixel(x), weight.permute(2, 3, 0, 1)  # (k k D C)
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for a, b, target, source in shifted_rows(grad, x, weight.shape[0], ctx.padding):
            if grad_x is not None:
                _row(grad_x, source).addmm_(_row(grad, target), weight[a, b])
            if grad_weight is not None:
                grad_weight[a, b].addmm_(_row(grad, target).T, _row(x, source))
        grad_x = None if grad_x is None else _by_image(grad_x)
        return grad_x, None if grad_weight is None else grad_weight.permute(2, 3, 0, 1), None


Row = tuple[int, slice]
"""The index of a row of pixels, and a range of columns in it."""


def shifted_rows(
    y: Float[Tensor, "h w N D"], x: Float[Tensor, "H W N C"], k: int, padding: int
) -> Iterator[tuple[int, int, Row, Row]]:
    """For each position (a, b) of a k × k kernel, yield each row of y that it adds to and the row of x it reads."""
    for a, b in product(range(k), repeat=2):
        down, right = a - padding, b - padding
        first, last = max(0, -right), min(y.shape[1], x.shape[1] - right)
        for i in range(max(0, -down), min(y.shape[0], x.shape[0] - down)):
            yield a, b, (i, slice(first, last)), (i + down, slice(first + right, last + right))


def _row(x: Float[Tensor, "H W N C"], row: Row) -> Float[Tensor, "wN C"]:
    return x[row].flatten(0, 1)  # a view, since x is contiguous: callers add to it


def _by_pixel(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "H W N C"]:
    return x.permute(2, 3, 0, 1).contiguous()


def _by_image(x: Float[Tensor, "H W N C"]) -> Float[Tensor, "N C H W"]:
    return x.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


class PatchProduct(torch.autograd.Function):
    """y = P(x) Wᵀ, where each row of P(x) is the patch of x under one pixel of y.

    With G = ∂L/∂y: ∂L/∂W = Gᵀ P(x), and ∂L/∂x convolves G with the flipped W, which for stride 1 is such a product too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        rows = patches(x, weight.shape[-1], stride, padding)
        return _maps(rows.flatten(0, 2).mm(_matrix(weight).T), rows.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        k, stride, padding = weight.shape[-1], ctx.stride, ctx.padding
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0] and stride == 1:
            rows = patches(grad, k, 1, k - 1 - padding)
            grad_x = _maps(rows.flatten(0, 2).mm(_matrix(weight.flip(2, 3).transpose(0, 1)).T), rows.shape)
        elif ctx.needs_input_grad[0]:
            grad_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, stride, padding)  # pyright: ignore[reportAttributeAccessIssue]
        if ctx.needs_input_grad[1]:
            rows = patches(x, k, stride, padding).flatten(0, 2)
            grad_weight = grad.permute(0, 2, 3, 1).flatten(0, 2).T.mm(rows)
            grad_weight = grad_weight.view(len(weight), k, k, -1).permute(0, 3, 1, 2)
        return grad_x, grad_weight, None, None


def patches(x: Float[Tensor, "N C H W"], k: int, stride: int, padding: int) -> Float[Tensor, "N h w kkC"]:
    """Return each k × k window of the zero-padded images that a convolution reads, in the order k, k, C."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
    windows = padded.unfold(1, k, stride).unfold(2, k, stride)  # N h w C k k
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


def _matrix(weight: Float[Tensor, "D C k k"]) -> Float[Tensor, "D kkC"]:
    return weight.permute(0, 2, 3, 1).flatten(1)


def _maps(rows: Float[Tensor, "Nhw D"], shape: torch.Size) -> Float[Tensor, "N D h w"]:
    return rows.view(*shape[:3], -1).permute(0, 3, 1, 2)
