"""The images that a run has learned from, by their digests, and the rule that it is not tested on them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unshaken.data.images import Images
from unshaken.data.source import STANDARD, DataSource, standard_name
from unshaken.nets.checkpoint import read_tensors, readable_header, write_tensors

FILE = "seen.safetensors"
PARTS = ("finetune", "pretrain")
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


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Digests of images, sorted: those that labels were learned from, and those that an encoder was pre-trained on.

    None: nobody knows, as of an encoder of somebody else's.
    """

    finetune: np.ndarray | None = None
    pretrain: np.ndarray | None = None

    @classmethod
    def beside(cls, file: Path) -> TrainingImages:
        """Read what lies beside an encoder's or a classifier's file; nothing is known where there is none."""
        path = (file if file.is_dir() else file.parent) / FILE
        if not path.exists():
            return cls()
        tensors, about = read_tensors(path)
        if about.get("kind") != "seen" or any(t.dtype != torch.int64 or t.ndim != 1 for t in tensors.values()):
            raise ValueError(f"{path} does not hold the digests of images: remove it, or take another copy")
        with readable_header(path):
            return cls(**{part: tensors[part].numpy() for part in PARTS if part in tensors})

    def write(self, folder: Path) -> None:
        """Keep it in a run's folder, unless the same is there."""
        tensors = {part: torch.from_numpy(value) for part in PARTS if (value := getattr(self, part)) is not None}
        if (folder / FILE).exists():
            kept = TrainingImages.beside(folder)
            if all(np.array_equal(getattr(kept, part), getattr(self, part)) for part in PARTS if part in tensors):
                return
        write_tensors(folder / FILE, tensors, {"kind": "seen"})

    def overlap(self, images: Images) -> Overlap:
        """Which of the images are among them, pixel for pixel."""
        digests = images.image_digests.numpy()
        rows = {part: None if (of := getattr(self, part)) is None else np.isin(digests, of) for part in PARTS}
        return Overlap(images, rows["finetune"], rows["pretrain"])


def pretrained_on(folder: Path, images: Images, before: Iterable[TrainingImages] = ()) -> None:
    """Note what an encoder in `folder` learns from: images, and what the encoders that it begins with learned from."""
    known = [one for each in before for one in (each.finetune, each.pretrain) if one is not None]
    TrainingImages(pretrain=_union(images, *known)).write(folder)


def finetuned_on(folder: Path, encoder: TrainingImages, *images: Images) -> None:
    """Note what a classifier in `folder` learns from and is chosen by, and what its encoder learned from."""
    TrainingImages(_union(*images), encoder.pretrain).write(folder)


def _union(*known: Images | np.ndarray) -> np.ndarray:
    return np.unique(np.concatenate([k.image_digests.numpy() if isinstance(k, Images) else k for k in known]))


def check_unseen(
    folder: Path | None, images: Images, source: DataSource | None, held_out: bool, allowed: bool
) -> dict[str, Any]:
    """Refuse to judge a run on images that it has learned from; returns how many these are, for its result.

    folder    of the run; None if there is none, and then nothing is known
    source    where the images come from: of a set that was published with its test part, a line on stderr says how many
    held_out  the images are of those kept aside in fine-tuning, which pre-training may have seen
    allowed   say it, and judge all the same
    """
    if folder is None or not (folder / FILE).exists():
        return {part: None for part in PARTS}
    overlap = TrainingImages.beside(folder).overlap(images)
    if held_out:
        overlap = Overlap(images, overlap.finetune, None)
    if overlap:
        published = standard_name(source or DataSource(images.name)) in STANDARD
        if not (allowed or published):
            raise ValueError(f"{overlap}: judge it on others (--data), or say --allow-seen")
        print(f"{overlap}; they are judged all the same", file=sys.stderr)
    return overlap.counts
