"""Convolutions of 3 × 3 pixels by Winograd's minimal filtering in compiled code, for CPUs."""

from __future__ import annotations

import ctypes
import os
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
TILES = {torch.float32: (2, 4), torch.bfloat16: (2,)}
"""Sides of tiles. In bf16 the error of 4 × 4 pixels would be five times that of PyTorch's convolution."""
LEAST_SAVING = {2: 1.6, 4: 2.4}
"""The least ratio of PyTorch's multiplications to those of the tiles, by their side, or both are about as fast. Maps of
5 × 5 pixels have 225 / 144 in tiles of 2 × 2, and 3 × 3 pixels 81 / 36 in one of 4 × 4: much of it lies outside."""
LEAST_TILES = {torch.float32: 64, torch.bfloat16: 128}
"""The fewest tiles of a batch: with fewer, the transform of many weights takes longer than it saves."""
SHARE = 42
"""A thread has a multiple of so many tiles: of 14 and of 6, which the code computes together."""


class WinogradConv2d(MatmulConv2d):
    """A convolution of 3 × 3 pixels that is computed by Winograd's minimal filtering where that is faster on a CPU.

    Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308. Elsewhere it is a
    `MatmulConv2d`. It takes float32 and bf16 images, channels last; bf16 where the processor has AVX-512 BF16.
    """

    most_pixels: int = 0

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        tile = 0 if torch.compiler.is_compiling() else tile_for(x)
        return WinogradProduct.apply(x, self.weight, self.bias, tile) if tile else super().forward(x)


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


def tile_for(x: Float[Tensor, "N C H W"]) -> int:
    """Return the side of the tiles with the fewest multiplications, or 0 for images that PyTorch's convolution takes.

    These are not on a CPU, not channels last, few, or of a size at which tiles save little.
    """
    if x.device.type != "cpu" or x.dtype not in TILES or not x.is_contiguous(memory_format=torch.channels_last):
        return 0
    if x.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):  # PyTorch's convolution would take it to bf16
        return 0
    if x.dtype == torch.bfloat16 and not has_bf16():
        return 0
    images, _, height, width = x.shape
    counts = {tile: -(-height // tile) * -(-width // tile) for tile in TILES[x.dtype]}
    work = {tile: (tile + 2) ** 2 * n for tile, n in counts.items() if images * n >= LEAST_TILES[x.dtype]}
    faster = [tile for tile in work if 9 * height * width >= LEAST_SAVING[tile] * work[tile]]
    return min(faster, key=work.__getitem__, default=0)  # the smaller one of two that are equal, as it rounds less


def has_bf16() -> bool:
    """Return whether the compiled code multiplies bf16 numbers."""
    return bool(CODE.load().winograd_has_bf16())


class WinogradProduct(torch.autograd.Function):
    """y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for each tile of y, the pixels d of x that it reads, and the kernels g.

    Products are summed over input channels; G, B and A are in winograd_conv.c. A tile of 2 × 2 pixels reads 4 × 4 and
    needs as many multiplications, in place of 36; one of 4 × 4 pixels reads 6 × 6, in place of 144. ∂L/∂x convolves
    ∂L/∂y with the turned kernels in the same way, and ∂L/∂g = Gᵀ [(A ∂L/∂y Aᵀ) ⊙ (Bᵀ d B)] G, summed over tiles of
    2 × 2 pixels and images.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tile: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tile = tile
        return convolved(x, weight, bias, tile)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        grad_x = convolved(grad, weight, None, ctx.tile, back=True) if of_x else None
        grad_weight = weight_gradient(x, grad).to(weight.dtype) if of_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)).to(weight.dtype) if of_bias else None, None


def convolved(
    x: Float[Tensor, "N in H W"], weight: Float[Tensor, "D C 3 3"], bias: Tensor | None, tile: int, back: bool = False
) -> Float[Tensor, "N out H W"]:
    """Return a convolution of images, channels last, in their precision; its sums are float32.

    tile  the side of a tile: 2, or 4 in float32
    back  False: from C channels to D. True: from D to C, by the turned kernels: the gradient of x from that of y
    """
    (d, c), (n, _, height, width), low = weight.shape[:2], x.shape, int(x.dtype == torch.bfloat16)
    weight = weight.float().contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.float().contiguous()
    inside, outside = (d, c) if back else (c, d)
    count = CODE.load().winograd_weight_size
    count.restype = ctypes.c_int64
    u = torch.empty(count(*_integers(inside, outside, low, tile)))
    y = torch.empty((n, outside, height, width), dtype=x.dtype, memory_format=torch.channels_last)
    _call("winograd_weight", (weight, u), (d, c), (int(back), low, tile), outside, CHANNELS)
    tiles = n * -(-height // tile) * -(-width // tile)
    _call("winograd_conv", (x, u, bias, y), (n, height, width, inside, outside), (low, tile), tiles, SHARE)
    return y


def weight_gradient(x: Float[Tensor, "N C H W"], grad: Float[Tensor, "N D H W"]) -> Float[Tensor, "D C 3 3"]:
    """Return the gradient of the weights in float32, from images and the gradient of the output, both channels last."""
    (n, c, height, width), d, low = x.shape, grad.shape[1], int(x.dtype == torch.bfloat16)
    found = torch.empty((d, c, 3, 3), memory_format=torch.channels_last)
    _call("winograd_weight_gradient", (x, grad, found), (n, height, width, c, d), (low,), c, CHANNELS)
    return found


def _call(
    name: str, tensors: tuple[Tensor | None, ...], sizes: tuple[int, ...], how: tuple[int, ...], total: int, unit: int
) -> None:
    """Call the compiled function for ranges of 0..total, a multiple of `unit` each, in as many threads as PyTorch uses.

    A range's result does not depend on the others, so the number of threads does not change it.
    """
    function = getattr(CODE.load(), name)
    at = [ctypes.c_void_p(None if x is None else x.data_ptr()) for x in tensors]

    def work(first: int, last: int) -> int:
        return function(*at, *_integers(*sizes, first, last, *how))

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
