"""scikit-learn's handwritten digits, 1,797 of 8 x 8 pixels: the default, nothing to download."""

from __future__ import annotations

import numpy as np
import torch

from unshaken.data.holdout import holdout_split
from unshaken.data.images import Images


def digits(split: str) -> Images:
    """Grey digits, their 17 levels spread over 0..255; every fourth of each class, in file order, is for testing."""
    from sklearn.datasets import load_digits  # here, because it takes a second that other sets need not wait

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
