"""A folder of a user's own images, with or without train and test folders and class folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unshaken.data.decode import SUFFIXES, Encoded
from unshaken.data.folder_index import Found, Listing, in_splits
from unshaken.data.folder_tree import Branch, LeftOut, Reason, read_tree
from unshaken.data.holdout import rank
from unshaken.data.split_names import ADVICE, NEUTRAL_WORDS, assign_splits, split_meant, splits_among
from unshaken.storage.cache import stamp

_MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_YEAR = r"(?:19|20)\d\d"
DATES = re.compile(
    rf"{_YEAR}(?:[-_. ]*(?:\d\d?|(?:{_MONTH})[a-z]*))*|(?:\d\d?[-_. ]*)?(?:{_MONTH})[a-z]*[-_. ]*(?:{_YEAR})?"
    rf"|(?:\d\d?[-_. ])+{_YEAR}|\d\d\d[a-z_]{{5}}|dcim",
    re.IGNORECASE,
)
"""Folder names that sort photos by time and are no classes: 2023-05, May 2023, 100CANON."""

BESIDE_CLASSES = "lie beside the folders"


@dataclass(frozen=True, eq=False)
class Files(Listing):
    """Image files, named by their paths below `root`."""

    root: Path
    files: tuple[str, ...]
    label: np.ndarray | None = None
    names: tuple[str, ...] = ()
    reason: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def at(self, rows: np.ndarray) -> Files:
        label = None if self.label is None else self.label[rows]
        return replace(self, files=self.called(rows), label=label)

    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        return ((file, self.root / file) for file in self.files)

    def called(self, rows: np.ndarray) -> tuple[str, ...]:
        return tuple(self.files[row] for row in rows)

    def stamp(self) -> object:
        return stamp(self.root / file for file in self.files)


def folder(path: Path, tree: Branch | None = None, left: LeftOut | None = None) -> Found:
    """Read a folder of images: its splits if it has any (train/, and test/ or val/), else its classes, else all images.

    Classes are the sorted names of the subfolders that hold images at any depth. The first image of each class comes
    before the second of any class, so that the first n images have all classes alike. ValueError if the folder can be
    read in two ways.
    """
    left = LeftOut() if left is None else left
    here = _innermost(read_tree(path, left) if tree is None else tree)
    location = str(path / here.path)
    if not here.holds():
        hint = f"; left out: {left}" if str(left) else ""
        raise ValueError(f"{location} has no images (looked for {', '.join(SUFFIXES)}){hint}")
    splits = _split_folders(here, location)
    if splits:
        for name in set(here.folders()) - set(splits.values()):
            left.note(Reason.UNUSED_SPLIT, f"{name}/", len(here.below[name].files()))
        for name in here.images:
            left.note(Reason.BESIDE_SPLITS, name)
        listings = {split: listing_of(path, _innermost_split(here.below[name])) for split, name in splits.items()}
    else:
        listings = _splits_within_classes(path, here, location, left)
    if not listings:
        return _without_splits(location, listing_of(path, here), left)
    return in_splits(location, listings, {split: f"{splits.get(split, split)}/" for split in listings}, left)


def _without_splits(location: str, listing: Files, left: LeftOut) -> Found:
    """Make one set of all images. It is split by content if it has class folders, also if images lie beside these."""
    by_content = listing.label is not None or BESIDE_CLASSES in listing.reason
    return Found(location, {"all": listing}, left, by_content=by_content)


def _innermost(here: Branch) -> Branch:
    """Descend to the folder where the set begins: photos/photos/cat/, dataset/train_test_split/train/."""
    while len(here.folders()) == 1 and not here.images:
        name, inner = next(iter(here.folders().items()))
        splits = set(splits_among(inner.folders()).values())
        if DATES.fullmatch(name) or split_meant(name) and len(splits) < 2:
            return here
        if not splits and not (len(inner.folders()) > 1 and not inner.images) and not _is_neutral(name):
            return here
        here = inner
    return here


def _is_neutral(name: str) -> bool:
    """Return whether a folder's name says nothing about its images: images, JPEGImages."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]+|[A-Z]?[a-z]+|\d+", name)
    return all(word.lower() in NEUTRAL_WORDS or word.lower() in ("jpeg", "all", "raw") for word in words)


def _split_folders(here: Branch, location: str) -> dict[str, str]:
    """Return the folder of each split; empty if the folders are classes."""
    folders = here.folders()
    splits = assign_splits(folders, location, classes=True)
    odd = next((name for name in folders if not splits and split_meant(name) == ("train", ())), None)
    if odd and len(folders[odd].folders()) > 1 and not folders[odd].images:
        others = ", ".join(sorted(set(folders) - {odd})[:3])
        raise ValueError(f"{location} has {odd}/, with folders in it like a split, beside {others}: {ADVICE}")
    return splits


def _innermost_split(branch: Branch) -> Branch:
    """Descend to the images of a split, where folders are nested: seg_train/seg_train/, train/images/."""
    while len(branch.folders()) == 1 and not branch.images:
        name, inner = next(iter(branch.folders().items()))
        if not (split_meant(name) or _is_neutral(name) or len(inner.folders()) > 1 and not inner.images):
            break
        branch = inner
    return branch


def _splits_within_classes(path: Path, here: Branch, location: str, left: LeftOut) -> dict[str, Files]:
    """Read a set that has the splits inside each class folder: cat/train/, cat/test/, dog/train/, ..."""
    classes = here.folders()
    within = {name: splits_among(branch.folders()) for name, branch in classes.items()}
    divided = [name for name, splits in within.items() if len(set(splits.values())) > 1]
    if not divided:
        return {}
    if here.images or len(divided) < len(classes) or any(len(set(p.values())) < len(p) for p in within.values()):
        raise ValueError(
            f"{location} has splits within {divided[0]}/ ({', '.join(sorted(within[divided[0]]))}), and not the same "
            f"ones within the other folders: {ADVICE}"
        )
    found: dict[str, dict[str, Branch]] = {}
    for name, branch in classes.items():
        for inner, below in branch.folders().items():
            if inner in within[name]:
                found.setdefault(within[name][inner], {})[name] = below
            else:
                left.note(Reason.UNUSED_SPLIT, f"{inner}/", len(below.files()))
        for image in branch.images:
            left.note(Reason.BESIDE_SPLITS, image)
    return {split: _by_class(path, branches) for split, branches in found.items()}


def listing_of(root: Path, branch: Branch) -> Files:
    """List the images of a folder, with labels if its folders are classes, else with the reason why they are not."""
    classes = branch.folders()
    if not classes:
        return Files(root, tuple(branch.files()))
    if branch.images:
        reason = f"images such as {branch.images[0]} {BESIDE_CLASSES} {', '.join(list(classes)[:3])}"
        return Files(root, tuple(branch.files()), reason=reason)
    if all(DATES.fullmatch(name) for name in classes):
        return Files(root, tuple(branch.files()), reason=f"folders such as {next(iter(classes))} are dates")
    return _by_class(root, classes)


def _by_class(root: Path, classes: dict[str, Branch]) -> Files:
    of_class = [branch.files() for branch in classes.values()]
    files = np.array([file for files in of_class for file in files], dtype=object)
    label = np.repeat(np.arange(len(classes)), [len(files) for files in of_class])
    order = np.lexsort((label, rank(label)))
    return Files(root, tuple(files[order]), label[order].astype(np.int64), tuple(classes))
