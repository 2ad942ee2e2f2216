"""CIFAR-10-C and CIFAR-100-C as published: one file per corruption, with five severities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unshaken.corruptions.severity import SEVERITIES, check
from unshaken.data.images import Images
from unshaken.storage.array_files import mapped_array


def corrupted(root: Path, name: str, severity: int, names: tuple[str, ...] = ()) -> Images:
    """Load the test images of CIFAR-10-C or CIFAR-100-C (Zenodo 2535967, 3555552) under one corruption.

    root   the unpacked folder, with labels.npy and one file for each corruption. Rows 0 ... n - 1 of such a file have
           severity 1, the next n severity 2, and so on
    names  the class names, which the files do not hold; numbers by default
    """
    check(name, severity)
    pixels, label = _array(root, name), _array(root, "labels")
    if (
        pixels.ndim != 4
        or pixels.shape[1:] != (32, 32, 3)
        or pixels.dtype != np.uint8
        or len(pixels) % 5
        or not len(pixels)
    ):
        raise ValueError(
            f"{root / name}.npy is {pixels.dtype} of shape {pixels.shape}, not uint8 of (5 n, 32, 32, 3), "
            "such as (50000, 32, 32, 3): it is not a file of CIFAR-10-C or CIFAR-100-C"
        )
    if label.shape != pixels.shape[:1] or label.dtype.kind not in "iu":
        raise ValueError(
            f"{root / 'labels'}.npy is {label.dtype} of shape {label.shape}, "
            f"and {name}.npy has {len(pixels)} images: both files must come from the same set"
        )
    count = len(pixels) // len(SEVERITIES)
    blocks = label.reshape(len(SEVERITIES), count)
    if (blocks != blocks[0]).any():
        raise ValueError(
            f"{root / 'labels'}.npy has different labels at different severities: "
            "it is not a file of CIFAR-10-C or CIFAR-100-C"
        )
    rows = slice((severity - 1) * count, severity * count)
    labels = torch.from_numpy(blocks[0].astype(np.int64))
    names = names or tuple(str(k) for k in range(10 if int(labels.max()) < 10 else 100))
    image = torch.from_numpy(np.array(pixels[rows])).permute(0, 3, 1, 2).contiguous()
    return Images(image, labels, names, f"{root.resolve().name}/{name}/{severity}", "test")


def _array(root: Path, name: str) -> np.ndarray:
    """Map an array of the folder: only one of its five severities is read into memory."""
    path = root / f"{name}.npy"
    if not path.is_file():
        raise ValueError(f"{root} has no {name}.npy: it is not the unpacked folder of CIFAR-10-C or CIFAR-100-C")
    try:
        return mapped_array(path)
    except ValueError as error:
        raise ValueError(f"{error}; unpack it again") from None
