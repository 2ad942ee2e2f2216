"""A user's own images before they are decoded: their names, labels and splits."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from unshaken.base.amounts import amount
from unshaken.data.decode import Encoded
from unshaken.data.folder_tree import LeftOut, Reason
from unshaken.data.split_names import TEST_SPLITS


class Listing(ABC):
    """Images in a fixed order, with labels (N) int64 or None, and the names of all classes of the set.

    reason  why there are no labels, if the user may wonder
    """

    label: np.ndarray | None
    names: tuple[str, ...]
    reason: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, rows: np.ndarray) -> Listing:
        """Select images by their rows, in ascending order."""

    @abstractmethod
    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        """Iterate over the images: each has a name for messages, and its encoded content."""

    @abstractmethod
    def called(self, rows: np.ndarray) -> tuple[str, ...]:
        """Return the names of some images, for messages."""

    @abstractmethod
    def stamp(self) -> object:
        """Return a value that changes when any image or the order of the images changes."""


@dataclass(frozen=True)
class Found:
    """The image set that was found at a path.

    location    the path, and the folder below it where the images are
    splits      the images of "train" and of "test" (or of one of them), or of "all" if the set comes without splits
    left        what is not used, and why
    errors      by split, why it cannot be used although another split can
    by_content  True: "all" is split into train and test by each image's content; False: all of it is for training
    """

    location: str
    splits: dict[str, Listing]
    left: LeftOut = field(default_factory=LeftOut)
    errors: dict[str, str] = field(default_factory=dict)
    by_content: bool = False

    def split(self, name: str) -> tuple[Listing, bool]:
        """Return the listing that has the images of a split, and whether it must still be split by content."""
        if "all" in self.splits:
            if name == "test" and not self.by_content:
                reason = self.splits["all"].reason
                raise ValueError(
                    f"{self.location} has no labels{f' ({reason})' if reason else ''} and no test split, so all "
                    "of it is for training; to test, name a set with class folders, labels, or train and test splits"
                )
            return self.splits["all"], self.by_content and name != "all"
        if name == "all":
            raise ValueError(f"{self.location} comes with splits of its own: leave --split all out")
        if name in self.errors:
            raise ValueError(self.errors[name])
        if name not in self.splits:
            has = "only a test split and nothing to train on: add a train split"
            raise ValueError(f"{self.location} has {has if name == 'train' else 'no test split'}")
        return self.splits[name], False

    def report(self, train: int | None = None, test: int | None = None) -> None:
        """Print once on stderr how the set was read; `train` and `test` are the counts after a split by content."""
        counts = {name: len(listing) for name, listing in self.splits.items() if name != "all"}
        listing = self.splits.get("train") or next(iter(self.splits.values()))
        if "all" in self.splits:
            counts = {"": len(listing)} if train is None else {"train": train, "test": test or 0}
        if listing.label is None:
            what = f"no classes{f' ({listing.reason})' if listing.reason else ''}"
        else:
            names = f"{', '.join(listing.names[:4])}{', ...' if len(listing.names) > 4 else ''}"
            what = f"{amount(len(listing.names), 'class', 'classes')} ({names})"
        split = ", split by content" if "all" in self.splits and train is not None else ""
        images = ", ".join(f"{count:,}{f' {name}' if name else ''}" for name, count in counts.items()) + " images"
        left = str(self.left)
        print_once(f"{self.location}: {what}, {images}{split}{f'; left out: {left}' if left else ''}")


def in_splits(location: str, listings: Mapping[str, Listing], called: dict[str, str], left: LeftOut) -> Found:
    """Make a set of its splits: train, and test or else val. An error in the test split does not prevent training.

    called  the name of each split's folder or file, for messages
    """
    train = listings.get("train")
    # of two test splits the labelled one is used: without labels a classifier cannot be tested
    tests = sorted(
        (split for split in TEST_SPLITS if split in listings), key=lambda split: listings[split].label is None
    )
    for split in tests[1:]:
        left.note(Reason.UNUSED_SPLIT, called[split], len(listings[split]))
    if not tests:
        return Found(location, {"all": train}, left, by_content=train.label is not None)  # pyright: ignore[reportArgumentType]
    test, errors = listings[tests[0]], {}
    if train is not None and train.label is not None and test.label is not None:
        if unknown := sorted(set(test.names) - set(train.names)):
            errors["test"] = (
                f"{called[tests[0]]} in {location} has the class {unknown[0]!r}, which the train split lacks; that has "
                f"{', '.join(train.names)}"
            )
        else:
            index = np.array([train.names.index(name) for name in test.names], np.int64)
            test = replace(test, label=index[test.label], names=train.names)  # pyright: ignore[reportArgumentType]
    return Found(location, ({} if train is None else {"train": train}) | {"test": test}, left, errors)


@cache
def print_once(line: str) -> None:
    """Print a line on stderr, the first time only."""
    print(line, file=sys.stderr)
