"""A user's own images before they are decoded: what they are called, their classes, their parts."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from unshaken.data.decode import Encoded
from unshaken.data.folder_tree import LeftOut, Reason
from unshaken.data.split_names import TEST_PARTS


class Listing(ABC):
    """Images in a fixed order, with labels (N) int64 or None, and the names of all classes of the set.

    reason  why there are no labels, if that is not plain
    """

    label: np.ndarray | None
    names: tuple[str, ...]
    reason: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def at(self, rows: np.ndarray) -> Listing:
        """Some of them, rows ascending."""

    @abstractmethod
    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        """Each as a name, to speak of it, and its content."""

    @abstractmethod
    def called(self, rows: np.ndarray) -> tuple[str, ...]:
        """The names of some of them, to speak of them."""

    @abstractmethod
    def stamp(self) -> object:
        """What changes when any of the images, or their order, does."""


@dataclass(frozen=True)
class Found:
    """What was found at a path.

    place       the path, and where in it the images are
    parts       the images of "train" and of "test" (or of one of them), or of "all" where there are no parts
    left        what is not used, and why
    wrong       by part, why it cannot be used though another can
    by_content  whether "all" is to be split, by each image's own content; else all of it is for training
    """

    place: str
    parts: dict[str, Listing]
    left: LeftOut = field(default_factory=LeftOut)
    wrong: dict[str, str] = field(default_factory=dict)
    by_content: bool = False

    def split(self, name: str) -> tuple[Listing, bool]:
        """The listing that a split is in, and whether it has to be split by content."""
        if "all" in self.parts:
            if name == "test" and not self.by_content:
                reason = self.parts["all"].reason
                raise ValueError(
                    f"{self.place} has no labels{f' ({reason})' if reason else ''} and no test part, so all of it is "
                    "for training; to test, name a set with class folders or labels, or with a train and a test part"
                )
            return self.parts["all"], self.by_content and name != "all"
        if name == "all":
            raise ValueError(f"{self.place} comes in parts, so it is read by part: leave --split all out")
        if name in self.wrong:
            raise ValueError(self.wrong[name])
        if name not in self.parts:
            has = "only a test part and nothing to train on: add a train part"
            raise ValueError(f"{self.place} has {has if name == 'train' else 'no test part'}")
        return self.parts[name], False

    def say(self, train: int | None = None, test: int | None = None) -> None:
        """Tell once on stderr what was understood; `train` and `test` count what was split by content."""
        counts = {name: len(listing) for name, listing in self.parts.items() if name != "all"}
        listing = self.parts.get("train") or next(iter(self.parts.values()))
        if "all" in self.parts:
            counts = {"": len(listing)} if train is None else {"train": train, "test": test or 0}
        if listing.label is None:
            what = f"no classes{f' ({listing.reason})' if listing.reason else ''}"
        else:
            names = f"{', '.join(listing.names[:4])}{', ...' if len(listing.names) > 4 else ''}"
            what = f"{len(listing.names):,} class{'es' * (len(listing.names) != 1)} ({names})"
        split = ", split by content" if "all" in self.parts and train is not None else ""
        images = ", ".join(f"{count:,}{f' {name}' if name else ''}" for name, count in counts.items()) + " images"
        left = str(self.left)
        say_once(f"{self.place}: {what}, {images}{split}{f'; left out: {left}' if left else ''}")


def in_parts(place: str, listings: Mapping[str, Listing], called: dict[str, str], left: LeftOut) -> Found:
    """A set that comes in parts: train, and test or else val. What is wrong with one part does not touch another."""
    train = listings.get("train")
    # one without labels is no test of a classifier if there is another one with them
    tests = sorted((part for part in TEST_PARTS if part in listings), key=lambda part: listings[part].label is None)
    for part in tests[1:]:
        left.note(Reason.PART, called[part], len(listings[part]))
    if not tests:
        return Found(place, {"all": train}, left, by_content=train.label is not None)  # pyright: ignore[reportArgumentType]
    test, wrong = listings[tests[0]], {}
    if train is not None and train.label is not None and test.label is not None:
        if unknown := sorted(set(test.names) - set(train.names)):
            wrong["test"] = (
                f"{called[tests[0]]} in {place} has a class that the train part lacks: {unknown[0]!r}; it has "
                f"{', '.join(train.names)}"
            )
        else:
            index = np.array([train.names.index(name) for name in test.names], np.int64)
            test = replace(test, label=index[test.label], names=train.names)  # pyright: ignore[reportArgumentType]
    return Found(place, ({} if train is None else {"train": train}) | {"test": test}, left, wrong)


@cache
def say_once(line: str) -> None:
    """Tell a line on stderr, the first time only."""
    print(line, file=sys.stderr)
