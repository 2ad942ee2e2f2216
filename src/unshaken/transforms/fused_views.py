"""SimCLR's views by one compiled loop per image, in place of many operations on the whole batch."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from unshaken.base.native_code import NativeCode
from unshaken.base.types import Float

CODE = NativeCode(Path(__file__).with_suffix(".c"))


class _Switch:
    """The switch between the two ways, for this process. A run sets it when it opens its runtime."""

    on = False


def use_fused_views(on: bool) -> None:
    """Use the compiled loop in this process from now on, or PyTorch's operations.

    Raises ValueError if it cannot be compiled here.
    """
    if on:
        CODE.require("views", "fused-views")
    _Switch.on = on


def fused_for(image: Tensor) -> bool:
    """Return whether the compiled loop makes these images' views: it is on, and they are colour images on a CPU."""
    return _Switch.on and image.shape[1] == 3 and image.device.type == "cpu"


def fused_views(target: Float[Tensor, "N 3 H W"], image: Float[Tensor, "N 3 H W"], *drawn: Tensor) -> None:
    """Write the views of images into `target`, by the draws of `SimCLRViews.draw`; equal to its `apply` up to rounding.

    The library has to be loaded: see `use_fused_views`.
    """
    rows, row_weight, columns, column_weight, matrix, mean, shift = (part.contiguous() for part in drawn)
    image = image.contiguous()
    assert target.is_contiguous()
    assert [part.dtype for part in (rows, columns, matrix)] == [torch.int64, torch.int64, torch.float32]
    n, _, height, width = image.shape
    sizes, taps = map(ctypes.c_int64, (n, height, width)), [ctypes.c_int64(part.shape[2]) for part in (rows, columns)]
    failed = CODE.load().simclr_views(
        _at(image), _at(target), *sizes, _at(rows), _at(row_weight), taps[0], _at(columns), _at(column_weight), taps[1],
        _at(matrix), _at(mean), _at(shift), ctypes.c_int64(matrix.shape[1]),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory is left for the views of an image")


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())
