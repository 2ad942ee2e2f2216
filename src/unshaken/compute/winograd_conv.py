"""Convolutions of 3 × 3 pixels by Winograd's minimal filtering in compiled code, for CPUs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unshaken.base.native_code import NativeCode
from unshaken.base.types import Float
from unshaken.compute.matmul_conv import MatmulConv2d

CODE = NativeCode(Path(__file__).with_suffix(".c"))
CHANNELS = 32
"""The numbers of input and of output channels are multiples of this."""
LEAST_USE = 0.75
"""The least share of the tiles' pixels that an output map has, or PyTorch's convolution is about as fast: 7 × 7 pixels
(49 of 64) are computed in tiles of 2 × 2, 5 × 5 (25 of 36) and 3 × 3 (9 of 16) are not."""
LEAST_TILES = {torch.float32: 64, torch.bfloat16: 128}
"""The fewest tiles of a batch: with fewer, the transform of many weights takes longer than it saves."""
SHARE = 42
"""A thread has a multiple of so many tiles: of 14 and of 6, which the code computes together."""


class WinogradConv2d(MatmulConv2d):
    """A convolution of 3 × 3 pixels that is computed by Winograd's F(2 × 2, 3 × 3) where that is faster on a CPU.

    Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308. Elsewhere it is a
    `MatmulConv2d`. It takes float32 and bf16 images, channels last; bf16 where the processor has AVX-512 BF16.
    """

    most_pixels: int = 0

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        if torch.compiler.is_compiling() or not is_faster(x):
            return super().forward(x)
        return WinogradProduct.apply(x, self.weight, self.bias)


def use_winograd_convs(net: nn.Module, on: bool = True) -> None:
    """Replace, in place, the convolutions that may become faster; they keep their parameters.

    on  False: let PyTorch compute all, also where they were replaced before

    Raises ValueError if the code cannot be compiled here.
    """
    if on:
        require_winograd()
    for module in net.modules():
        # another subclass may compute something else
        if on and type(module) in (nn.Conv2d, MatmulConv2d) and may_be_winograd(module):  # pyright: ignore[reportArgumentType]
            module.__class__ = WinogradConv2d
        elif not on and type(module) is WinogradConv2d:
            module.__class__ = nn.Conv2d  # pyright: ignore[reportAttributeAccessIssue]


def require_winograd() -> None:
    """Load the compiled code; raise a ValueError if that is not possible here."""
    CODE.require("convolutions", "winograd")


def may_be_winograd(conv: nn.Conv2d) -> bool:
    """Return whether it is a plain convolution of 3 × 3 pixels, with padding 1 and channels in multiples of 32."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    plain = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return plain and conv.in_channels % CHANNELS == 0 and conv.out_channels % CHANNELS == 0


def is_faster(x: Float[Tensor, "N C H W"]) -> bool:
    """Return whether images are on a CPU, channels last, and of a size at which fewer multiplications save time."""
    if x.device.type != "cpu" or x.dtype not in LEAST_TILES or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if x.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):  # PyTorch's convolution would take it to bf16
        return False
    if x.dtype == torch.bfloat16 and not has_bf16():
        return False
    images, _, height, width = x.shape
    tiles = -(-height // 2) * -(-width // 2)
    return height * width >= LEAST_USE * 4 * tiles and images * tiles >= LEAST_TILES[x.dtype]


def has_bf16() -> bool:
    """Return whether the compiled code multiplies bf16 numbers."""
    return bool(CODE.load().winograd_has_bf16())


class WinogradProduct(torch.autograd.Function):
    """y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for each 2 × 2 pixels of y, the 4 × 4 pixels d of x that they read, and kernels g.

    Products are summed over input channels; G, B and A are in winograd_conv.c. ∂L/∂x convolves ∂L/∂y with the turned
    kernels in the same way, and ∂L/∂g = Gᵀ [(A ∂L/∂y Aᵀ) ⊙ (Bᵀ d B)] G, summed over tiles and images.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return convolved(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad_x = convolved(grad, weight, back=True) if of_x else None
        grad_weight = weight_gradient(x, grad).to(weight.dtype) if of_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)).to(weight.dtype) if of_bias else None


def convolved(
    x: Float[Tensor, "N in H W"], weight: Float[Tensor, "D C 3 3"], bias: Tensor | None = None, back: bool = False
) -> Float[Tensor, "N out H W"]:
    """Return a convolution of images, channels last, in their precision; its sums are float32.

    back  False: from C channels to D. True: from D to C, by the turned kernels: the gradient of x from that of y
    """
    (d, c), (n, _, height, width), low = weight.shape[:2], x.shape, int(x.dtype == torch.bfloat16)
    weight = weight.float().contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.float().contiguous()
    inside, outside = (d, c) if back else (c, d)
    u = torch.empty(16 * outside * inside // (1 + low))
    y = torch.empty((n, outside, height, width), dtype=x.dtype, memory_format=torch.channels_last)
    code, sizes = CODE.load(), _integers(n, height, width, inside, outside)
    _share(outside, CHANNELS, lambda a, b: code.winograd_weight(_at(weight), _at(u), *_integers(d, c, a, b), back, low))
    tiles = n * -(-height // 2) * -(-width // 2)
    _share(
        tiles, SHARE, lambda a, b: code.winograd_conv(_at(x), _at(u), _at(bias), _at(y), *sizes, *_integers(a, b), low)
    )
    return y


def weight_gradient(x: Float[Tensor, "N C H W"], grad: Float[Tensor, "N D H W"]) -> Float[Tensor, "D C 3 3"]:
    """Return the gradient of the weights in float32, from images and the gradient of the output, both channels last."""
    (n, c, height, width), d = x.shape, grad.shape[1]
    found = torch.empty((d, c, 3, 3), memory_format=torch.channels_last)
    code, sizes, low = CODE.load(), _integers(n, height, width, c, d), int(x.dtype == torch.bfloat16)
    _share(
        c,
        CHANNELS,
        lambda a, b: code.winograd_weight_gradient(_at(x), _at(grad), _at(found), *sizes, *_integers(a, b), low),
    )
    return found


def _share(total: int, unit: int, work: Callable[[int, int], int]) -> None:
    """Do the work on ranges of 0..total, a multiple of `unit` each, in as many threads as PyTorch uses.

    A range's result does not depend on the others, so the number of threads does not change it.
    """
    units, count = -(-total // unit), torch.get_num_threads()
    ends = [min(total, units * i // count * unit) for i in range(count + 1)]
    parts = [(a, b) for a, b in zip(ends, ends[1:], strict=False) if a < b]
    others = [_threads(count).submit(work, *part) for part in parts[1:]]
    failed = [work(*part) for part in parts[:1]] + [other.result() for other in others]
    if any(failed):
        raise MemoryError("no memory is left for a convolution")


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, count - 1), "unshaken-conv")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_threads.cache_clear)


def _integers(*numbers: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(number) for number in numbers]


def _at(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())
