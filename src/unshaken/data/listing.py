"""A user's own images before they are decoded: what they are called, their classes, their splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unshaken.data.decode import Encoded
from unshaken.data.held_out import held_out

TEST_PARTS = ("test", "val", "validation")
"""What the test part of a set may be called; the first that exists is the one."""

EVERY = 5


class Listing(ABC):
    """Images in a fixed order, with labels (N) int64 or None, and the names of all classes of the set."""

    label: np.ndarray | None
    names: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, rows: np.ndarray) -> Listing:
        """Some of them, rows ascending."""

    @abstractmethod
    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        """Each as a name, to speak of it, and its content."""

    @abstractmethod
    def stamp(self) -> object:
        """What changes when any of the images, or their order, does."""


def fifths(listing: Listing, path: Path) -> dict[str, Listing]:
    """The splits of a set that has no parts of its own: every fifth image of each class is for testing.

    Without labels all are for training. The split depends on names and order alone, so pre-training and
    fine-tuning agree on it.
    """
    if listing.label is None:
        return {"train": listing}
    test = held_out(listing.label, EVERY)
    if not test.any():
        most = np.bincount(listing.label).max()
        raise ValueError(f"{path} has at most {most} images in a class; {EVERY} are needed, the fifth to test on")
    return {"train": listing.at(np.flatnonzero(~test)), "test": listing.at(np.flatnonzero(test))}


def chosen(splits: dict[str, Listing], split: str, path: Path) -> Listing:
    if split in splits:
        return splits[split]
    if split == "test":
        raise ValueError(
            f"{path} has no labels and no test part, so all of it is for training; to test, name a set with class "
            "folders or labels, or one with a train and a test part"
        )
    raise ValueError(f"{path} has only a test part and nothing to train on: add a train part")
