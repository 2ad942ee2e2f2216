"""Convolutions of small maps as matrix products, which a CPU computes faster; the equations stay as they are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unshaken.base.types import Float

PIXELS = 16
"""The largest map, h w, that is computed so. On 4×4 pixels of 512 channels a library's convolution spends more time
on rearranging its 2.4 million weights than on using them."""
CHANNELS = 256
"""The least input channels: with fewer there are few weights to rearrange."""


class SmallMaps(nn.Conv2d):
    """A convolution that is a product where its output is small."""

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        (high, wide), (k, _), (stride, _), (padding, _) = x.shape[2:], self.kernel_size, self.stride, self.padding
        h, w = ((side + 2 * padding - k) // stride + 1 for side in (high, wide))
        if h * w > PIXELS or x.device.type != "cpu":
            return super().forward(x)
        y = Product.apply(x, self.weight.to(x.dtype), stride, padding)
        return y if self.bias is None else y + self.bias.to(x.dtype)[:, None, None]


def small_maps(net: nn.Module) -> None:
    """In place, the convolutions that may profit, with the same parameters."""
    for name, module in list(net.named_modules()):
        if type(module) is nn.Conv2d and _may_profit(module):
            net.set_submodule(name, _same(module))


def _may_profit(conv: nn.Conv2d) -> bool:
    square = all(len({*pair}) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    plain = conv.padding_mode == "zeros" and conv.groups == 1 and conv.dilation == (1, 1)
    return square and plain and conv.kernel_size[0] > 1 and conv.in_channels >= CHANNELS


def _same(conv: nn.Conv2d) -> SmallMaps:
    shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    made = SmallMaps(*shape, bias=conv.bias is not None, device="meta").train(conv.training)
    made.weight, made.bias = conv.weight, conv.bias
    return made


class Product(torch.autograd.Function):
    """y = P(x) Wᵀ, of whose rows P(x) each is the patch of x under one pixel of y.

    ∂/∂W = ∂yᵀ P(x); ∂/∂x is the convolution of ∂y with W turned round, and with stride 1 that is a product too.
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
        of_x = of_weight = None
        if ctx.needs_input_grad[0] and stride == 1:
            rows = patches(grad, k, 1, k - 1 - padding)
            of_x = _maps(rows.flatten(0, 2).mm(_matrix(weight.flip(2, 3).transpose(0, 1)).T), rows.shape)
        elif ctx.needs_input_grad[0]:
            of_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, stride, padding)
        if ctx.needs_input_grad[1]:
            rows = patches(x, k, stride, padding).flatten(0, 2)
            of_weight = grad.permute(0, 2, 3, 1).flatten(0, 2).T.mm(rows)
            of_weight = of_weight.view(len(weight), k, k, -1).permute(0, 3, 1, 2)
        return of_x, of_weight, None, None


def patches(x: Float[Tensor, "N C H W"], k: int, stride: int, padding: int) -> Float[Tensor, "N h w kkC"]:
    """Of the zero-padded images, each k × k window that a convolution looks at, channels last."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
    windows = padded.unfold(1, k, stride).unfold(2, k, stride)  # N h w C k k
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


def _matrix(weight: Float[Tensor, "D C k k"]) -> Float[Tensor, "D kkC"]:
    return weight.permute(0, 2, 3, 1).flatten(1)


def _maps(rows: Float[Tensor, "Nhw D"], shape: torch.Size) -> Float[Tensor, "N D h w"]:
    return rows.view(*shape[:3], -1).permute(0, 3, 1, 2)
