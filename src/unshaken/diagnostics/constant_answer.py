"""The constant answer: the accuracy of always naming the most frequent class."""

from __future__ import annotations

from typing import Any

import torch

from unshaken.data.images import Images
from unshaken.diagnostics.sanity_checks import accuracy
from unshaken.diagnostics.subject import SURPRISING, Finding, ModelUnderTest, binomial_tail


def constant(images: Images) -> dict[str, Any]:
    """Return the most frequent class and its count: an accuracy that is no higher means little."""
    counts = torch.bincount(images.label.cpu(), minlength=len(images.names))
    most, n = int(counts.argmax()), len(images)
    right = int(counts[most])
    return {"class": images.names[most], "correct": right, "n": n, "percent": round(100 * right / n, 2)}


def no_better(model: ModelUnderTest) -> Finding | None:
    """Report if the network is correct on no more images than the constant answer."""
    counts = torch.bincount(model.y.cpu())
    right, usual, n = int(model.is_correct.sum()), int(counts.max()), len(model.y)
    if right > usual or binomial_tail(n, n, usual / n) > SURPRISING:  # too few images, or a single class
        return None
    if accuracy(model) is not None:  # that check reports it already
        return None
    says = (
        f"{right} of {n} images are classified correctly, and always answering class {int(counts.argmax())} is "
        f"correct on {usual}: accuracy under attack can be as high without looking at an image."
    )
    do = "Check that it was trained for these images and classes; report the constant answer beside SA and RA."
    return Finding("constant", says, "likely", do)
