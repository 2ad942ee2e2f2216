"""Depthwise convolutions on small feature maps: weight gradients by kernel position, which are faster on CPUs."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unshaken.base.types import Float


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that computes its weight gradient itself where its kernel exceeds its output map.

    There PyTorch's own takes up to thirty times as long: 102 against 5 ms for a 5 × 5 kernel on 3 × 3 pixels, with
    1,152 channels and 64 images. Such maps are common: EfficientNet ends with 3 × 3 pixels for images of 96.
    """

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C h w"]:
        (k, _), (stride, _), (padding, _) = self.kernel_size, self.stride, self.padding  # square: see `_may_profit`
        least = (min(x.shape[2:]) + 2 * padding - k) // stride + 1  # pyright: ignore[reportOperatorIssue]
        needed = torch.is_grad_enabled() and self.weight.requires_grad
        if not needed or least >= k or x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        y = _Depthwise.apply(x, self.weight, stride, padding)
        return y if self.bias is None else y + self.bias[:, None, None]


def use_depthwise_convs(net: nn.Module, own: bool = True) -> None:
    """Replace, in place, the depthwise convolutions that may become faster; they keep their parameters.

    own  False: let PyTorch compute all gradients, also where they were replaced before
    """
    for module in net.modules():
        if own and type(module) is nn.Conv2d and _may_profit(module):  # a subclass may compute something else
            module.__class__ = DepthwiseConv2d
        elif not own and type(module) is DepthwiseConv2d:
            module.__class__ = nn.Conv2d  # pyright: ignore[reportAttributeAccessIssue]


def has_depthwise_convs(net: nn.Module) -> bool:
    """Return whether a network has depthwise convolutions, which bf16 makes slower on CPUs."""
    return any(isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels for module in net.modules())


def _may_profit(conv: nn.Conv2d) -> bool:
    # the set of letters of padding="same" has more than one item, so such a convolution stays as it is
    square = all(len({*pair}) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    plain = conv.padding_mode == "zeros" and conv.dilation == (1, 1)
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    return square and plain and depthwise and conv.kernel_size[0] > 1


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, grad_x = ctx.stride, ctx.padding, None
        if ctx.needs_input_grad[0]:
            how = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight)
            grad_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *how, [True, False, False])[0]
        return grad_x, weight_gradient(x, grad, weight.shape[-1], stride, padding), None, None


def weight_gradient(
    x: Float[Tensor, "N C H W"], grad: Float[Tensor, "N C h w"], k: int, stride: int, padding: int
) -> Float[Tensor, "C 1 k k"]:
    """Return ∂L/∂W[a] = Σ_i G[i] x[stride · i + a − padding] for each channel, from G = ∂L/∂y; a and i are positions.

    Only pixels that exist are summed. On maps smaller than the kernel, most of what a kernel reads is padding.
    """
    x, grad = x.permute(2, 3, 0, 1), grad.permute(2, 3, 0, 1)
    total = x.new_zeros(k, k, x.shape[-1])
    for a, b in product(range(k), repeat=2):
        rows, of_rows = _overlap(a - padding, stride, x.shape[0], grad.shape[0])
        columns, of_columns = _overlap(b - padding, stride, x.shape[1], grad.shape[1])
        torch.sum(x[of_rows, of_columns] * grad[rows, columns], (0, 1, 2), out=total[a, b])
    return total.permute(2, 0, 1).unsqueeze(1)


def _overlap(shift: int, stride: int, inside: int, outside: int) -> tuple[slice, slice]:
    """Return the range of i where 0 ≤ stride · i + shift < inside, and the range of stride · i + shift."""
    first = max(0, -(shift // stride))
    last = min(outside, (inside - 1 - shift) // stride + 1)
    if last <= first:
        return slice(0), slice(0)
    return slice(first, last), slice(stride * first + shift, stride * (last - 1) + shift + 1, stride)
