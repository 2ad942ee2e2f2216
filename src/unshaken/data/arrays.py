"""Arrays, tensors and lists of a user, converted to uint8 images and int64 labels."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unshaken.base.types import Int, UInt8

ROUNDING = 1e-3
"""In grey levels: a float within this distance of a whole level counts as that level."""


def pixels_of(x: Any) -> UInt8[Tensor, "N C H W"]:
    """Convert images to uint8 (N C H W), from integers in 0..255 or floats in [0, 1].

    Channels may come last, and grey images may have no channel axis. A line on stderr says if values are rounded or
    axes are moved. ValueError for any other range, such as that of normalised images.
    """
    x = _tensor(x, "images")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        print(f"note: images of shape {tuple(x.shape)} are read with the channels last", file=sys.stderr)
        x = x.permute(0, 3, 1, 2)
    if x.ndim != 4:
        raise ValueError(f"images must have the shape (N, C, H, W), not {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x.contiguous()
    if not x.numel():
        return x.to(torch.uint8)
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError("some pixels are not finite numbers")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 255 or (x.is_floating_point() and 1 + 1e-6 < high <= 2):
        raise ValueError(
            f"the pixels lie in [{low:.4g}, {high:.4g}]: give images in [0, 1] or in 0 to 255, and normalise them "
            "inside the network"
        )
    levels = x if not x.is_floating_point() or high > 2 else x.double() * 255
    rounded = levels.round()
    error = float((levels - rounded).abs().max()) if x.is_floating_point() else 0.0
    if error > ROUNDING:
        print(f"note: the images are rounded to 8 bits, by up to {error:.2f} of 255 levels", file=sys.stderr)
    return rounded.to(torch.uint8).contiguous()


def labels_of(y: Any, n: int) -> Int[Tensor, "N"]:
    """Convert labels to int64, one for each of `n` images. ValueError if they are not whole numbers."""
    y = _tensor(y, "labels")
    if y.shape == (n, 1):
        y = y[:, 0]
    if y.shape != (n,):
        raise ValueError(f"{n} images need {n} labels, one whole number each, not labels of shape {tuple(y.shape)}")
    label = y.to(torch.int64)
    if y.is_complex() or (y.is_floating_point() and not bool((label == y).all())):
        raise ValueError("labels must be whole numbers, and some of these are not")
    return label


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(each, Tensor) for each in value):
            return torch.stack([torch.as_tensor(each) for each in value])
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the {what} cannot be read as one array ({' '.join(str(error).split())})") from None
