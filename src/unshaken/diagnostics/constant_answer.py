"""The constant answer: what it is worth to name the most frequent class, whatever the image."""

from __future__ import annotations

from typing import Any

import torch

from unshaken.data.images import Images
from unshaken.diagnostics.sanity_checks import accuracy
from unshaken.diagnostics.subject import SURPRISING, Finding, ModelUnderTest, binomial_tail


def constant(images: Images) -> dict[str, Any]:
    """The most frequent class, and how many images it is right on: a score no higher than that means little."""
    counts = torch.bincount(images.label.cpu(), minlength=len(images.names))
    most, n = int(counts.argmax()), len(images)
    right = int(counts[most])
    return {"class": images.names[most], "correct": right, "n": n, "percent": round(100 * right / n, 2)}


def no_better(patient: ModelUnderTest) -> Finding | None:
    """A network that is right on no more images than the answer is that names the most frequent class."""
    counts = torch.bincount(patient.y.cpu())
    right, usual, n = int(patient.right.sum()), int(counts.max()), len(patient.y)
    if (
        right > usual or binomial_tail(n, n, usual / n) > SURPRISING
    ):  # of few images, or of one class, nothing can be told
        return None
    if accuracy(patient) is not None:  # which says so too
        return None
    says = (
        f"{right} of {n} images are classified rightly, and whoever always answers class {int(counts.argmax())} is "
        f"right on {usual}: accuracy under attack can be as high without looking at an image."
    )
    do = "Look whether it was trained for these images and classes; report the constant answer beside SA and RA."
    return Finding("constant", says, "likely", do)
