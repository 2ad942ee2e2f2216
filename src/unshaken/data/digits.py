"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: the default set, no download."""

from __future__ import annotations

import numpy as np
import torch

from unshaken.data.holdout import holdout_split
from unshaken.data.images import Images


def digits(split: str) -> Images:
    """Load the grey digits, their 17 levels scaled to 0..255. Every fourth image of each class is a test image."""
    from sklearn.datasets import load_digits  # imported here, because the import takes a second

    bunch = load_digits()
    rows = holdout_split(bunch.target, every=4) == (split == "test")  # pyright: ignore[reportAttributeAccessIssue]
    pixels = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    return Images(
        pixels=torch.from_numpy(pixels)[:, None],
        label=torch.from_numpy(bunch.target[rows].astype(np.int64)),  # pyright: ignore[reportAttributeAccessIssue]
        names=tuple("0123456789"),
        name="digits",
        split=split,
    )
