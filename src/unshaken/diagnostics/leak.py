"""The check that no test image is one that the classifier or its encoder has learned from."""

from __future__ import annotations

from unshaken.diagnostics.subject import Finding
from unshaken.train.training_images import Overlap


def leak(overlap: Overlap) -> Finding | None:
    """Return a finding if test images were learned from."""
    if not overlap:
        return None
    do = "Test on images that nothing has learned from: on these an accuracy says nothing."
    return Finding("leak", f"Pixel for pixel, {overlap}.", "certain", do)
