"""The check that no test image is one that the classifier or its encoder has learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unshaken.data.images import Images
from unshaken.diagnostics.subject import Finding

SHOWN = 3


@dataclass(frozen=True, eq=False)
class Overlap:
    """Which test images are, pixel for pixel, among those that were learned from; None where nobody knows.

    finetune  those that the classifier has learned the labels of
    pretrain  those that its encoder was pre-trained on
    """

    images: Images
    finetune: np.ndarray | None
    pretrain: np.ndarray | None

    @property
    def counts(self) -> dict[str, int | None]:
        rows = {"finetune": self.finetune, "pretrain": self.pretrain}
        return {part: None if each is None else int(each.sum()) for part, each in rows.items()}

    @property
    def known(self) -> bool:
        """Whether anything is known of what was learned from."""
        return self.finetune is not None or self.pretrain is not None

    def __bool__(self) -> bool:
        return any(self.counts.values())

    def __str__(self) -> str:
        """Tell how many there are, and which."""
        parts = {"the classifier was fine-tuned on": self.finetune, "its encoder was pre-trained on": self.pretrain}
        told = [
            f"{int(rows.sum()):,} {what}{self._some(rows)}"
            for what, rows in parts.items()
            if rows is not None and rows.any()
        ]
        return f"of the {len(self.images):,} {self.images.split} images of {self.images.name}, " + ", and ".join(told)

    def _some(self, rows: np.ndarray) -> str:
        if not self.images.files:
            return ""
        some = [self.images.files[row] for row in np.flatnonzero(rows)[:SHOWN]]
        return f" ({', '.join(some)}{', ...' if rows.sum() > SHOWN else ''})"  # pyright: ignore[reportArgumentType, reportCallIssue]


def leak(overlap: Overlap) -> Finding | None:
    """Return a finding if test images were learned from."""
    if not overlap:
        return None
    do = "Test on images that nothing has learned from: on these an accuracy says nothing."
    return Finding("leak", f"Pixel for pixel, {overlap}.", "certain", do)
