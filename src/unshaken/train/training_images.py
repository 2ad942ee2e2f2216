"""A record of the images a network was trained on, and the check that it is not tested on them."""

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
STAGES = ("finetune", "pretrain")
SHOWN = 3
"""The number of images that a message names."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """The test images that are, pixel for pixel, also training images; None if the training images are unknown.

    finetune  one boolean per test image: the classifier was fine-tuned on it
    pretrain  one boolean per test image: the encoder was pre-trained on it
    """

    images: Images
    finetune: np.ndarray | None
    pretrain: np.ndarray | None

    @property
    def counts(self) -> dict[str, int | None]:
        rows = {"finetune": self.finetune, "pretrain": self.pretrain}
        return {stage: None if each is None else int(each.sum()) for stage, each in rows.items()}

    @property
    def known(self) -> bool:
        """True if the training images of at least one stage are known."""
        return self.finetune is not None or self.pretrain is not None

    def __bool__(self) -> bool:
        return any(self.counts.values())

    def __str__(self) -> str:
        """Say how many images there are, and name some."""
        stages = {"the classifier was fine-tuned on": self.finetune, "its encoder was pre-trained on": self.pretrain}
        clauses = [
            f"{what} {int(rows.sum()):,}{self._some(rows)}"
            for what, rows in stages.items()
            if rows is not None and rows.any()
        ]
        return f"of the {len(self.images):,} {self.images.split} images of {self.images.name}, " + ", and ".join(
            clauses
        )

    def _some(self, rows: np.ndarray) -> str:
        if not self.images.files:
            return ""
        some = [self.images.files[row] for row in np.flatnonzero(rows)[:SHOWN]]
        return f" ({', '.join(some)}{', ...' if rows.sum() > SHOWN else ''})"  # pyright: ignore[reportArgumentType, reportCallIssue]


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Sorted digests of the images of fine-tuning and of pre-training; None if unknown, as for an imported encoder."""

    finetune: np.ndarray | None = None
    pretrain: np.ndarray | None = None

    @classmethod
    def beside(cls, file: Path) -> TrainingImages:
        """Read the record beside an encoder's or a classifier's file; without one, both are unknown."""
        path = (file if file.is_dir() else file.parent) / FILE
        if not path.exists():
            return cls()
        tensors, about = read_tensors(path)
        if about.get("kind") != "seen" or any(t.dtype != torch.int64 or t.ndim != 1 for t in tensors.values()):
            raise ValueError(f"{path} does not hold the digests of images: remove it, or use another copy")
        with readable_header(path):
            return cls(**{stage: tensors[stage].numpy() for stage in STAGES if stage in tensors})

    def write(self, folder: Path) -> None:
        """Write the record into a run's folder, unless the same record is there."""
        tensors = {stage: torch.from_numpy(value) for stage in STAGES if (value := getattr(self, stage)) is not None}
        if (folder / FILE).exists():
            old = TrainingImages.beside(folder)
            if all(np.array_equal(getattr(old, stage), getattr(self, stage)) for stage in STAGES if stage in tensors):
                return
        write_tensors(folder / FILE, tensors, {"kind": "seen"})

    def overlap(self, images: Images) -> Overlap:
        """Find the images that are, pixel for pixel, training images."""
        digests = images.image_digests.numpy()
        rows = {stage: None if (of := getattr(self, stage)) is None else np.isin(digests, of) for stage in STAGES}
        return Overlap(images, rows["finetune"], rows["pretrain"])


def pretrained_on(folder: Path, images: Iterable[Images], before: Iterable[TrainingImages] = ()) -> None:
    """Record the training images of an encoder: `images`, and the training images of the encoders it starts from."""
    earlier = [digests for each in before for digests in (each.finetune, each.pretrain) if digests is not None]
    TrainingImages(pretrain=_union(*images, *earlier)).write(folder)


def finetuned_on(folder: Path, encoder: TrainingImages, *images: Images) -> None:
    """Record the images a classifier was trained on or selected by, and the training images of its encoder."""
    TrainingImages(_union(*images), encoder.pretrain).write(folder)


def _union(*sets: Images | np.ndarray) -> np.ndarray:
    digests = [each.image_digests.numpy() if isinstance(each, Images) else each for each in sets]
    return np.unique(np.concatenate(digests))


def check_unseen(
    folder: Path | None, images: Images, source: DataSource | None, held_out: bool, allowed: bool
) -> dict[str, Any]:
    """Raise a ValueError if test images are training images of the run; return their numbers, for its result.

    folder    the run's folder; None if there is none, and then the training images are unknown
    source    the source of the images: for a published test split, a warning on stderr replaces the error
    held_out  the images were held out in fine-tuning, but pre-training may have used them
    allowed   print a warning instead of raising
    """
    if folder is None or not (folder / FILE).exists():
        return {stage: None for stage in STAGES}
    overlap = TrainingImages.beside(folder).overlap(images)
    if held_out:
        overlap = Overlap(images, overlap.finetune, None)
    if overlap:
        published = standard_name(source or DataSource(images.name)) in STANDARD
        if not (allowed or published):
            raise ValueError(f"{overlap}: evaluate on other images (--data), or say --allow-seen")
        print(f"{overlap}; they are evaluated all the same", file=sys.stderr)
    return overlap.counts
