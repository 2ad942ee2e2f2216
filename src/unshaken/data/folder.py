"""A folder of a user's own images: its parts, its classes, or all of them in one without labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unshaken.data.decode import SUFFIXES, Encoded
from unshaken.data.folder_index import Found, Listing, in_parts
from unshaken.data.folder_tree import Branch, LeftOut, Reason, read_tree
from unshaken.data.holdout import rank
from unshaken.data.split_names import ADVICE, FILLERS, part_of, parts_among, parts_of
from unshaken.storage.cache import stamp

_MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_YEAR = r"(?:19|20)\d\d"
DATES = re.compile(
    rf"{_YEAR}(?:[-_. ]*(?:\d\d?|(?:{_MONTH})[a-z]*))*|(?:\d\d?[-_. ]*)?(?:{_MONTH})[a-z]*[-_. ]*(?:{_YEAR})?"
    rf"|(?:\d\d?[-_. ])+{_YEAR}|\d\d\d[a-z_]{{5}}|dcim",
    re.IGNORECASE,
)
"""What folders are called that sort photos by time: 2023-05, May 2023, 100CANON."""

BESIDE = "lie beside the folders"


@dataclass(frozen=True, eq=False)
class Files(Listing):
    """Image files, by their paths from the folder they were found under."""

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
    """Read what a folder holds: its parts if it has any (train/ and test/ or val/, by any of their names), else its
    classes, else all images in one.

    Classes are the sorted names of the subfolders that hold images, at any depth. The first image of each class comes
    before the second of any, so that a limited set is a fair one. ValueError for what may be read in two ways.
    """
    left = LeftOut() if left is None else left
    here = _unwrapped(read_tree(path, left) if tree is None else tree)
    place = str(path / here.path)
    if not here.holds():
        hint = f"; left out: {left}" if str(left) else ""
        raise ValueError(f"{place} has no images (looked for {', '.join(SUFFIXES)}){hint}")
    parts = _parts(here, place)
    if parts:
        for name in set(here.folders()) - set(parts.values()):
            left.note(Reason.PART, f"{name}/", len(here.below[name].files()))
        for name in here.images:
            left.note(Reason.LOOSE, name)
        listings = {part: listed(path, _unwrapped_part(here.below[name])) for part, name in parts.items()}
    else:
        listings = _parts_by_class(path, here, place, left)
    if not listings:
        return _without_parts(place, listed(path, here), left)
    return in_parts(place, listings, {part: f"{parts.get(part, part)}/" for part in listings}, left)


def _without_parts(place: str, listing: Files, left: LeftOut) -> Found:
    """Folders that are classes, or would be if no image lay beside them, make a set that has to be tested too."""
    return Found(place, {"all": listing}, left, by_content=listing.label is not None or BESIDE in listing.reason)


def _unwrapped(here: Branch) -> Branch:
    """The folder itself, or where in it the set begins: photos/photos/cat/, dataset/train_test_split/train/."""
    while len(here.folders()) == 1 and not here.images:
        name, inner = next(iter(here.folders().items()))
        parts = set(parts_among(inner.folders()).values())
        if DATES.fullmatch(name) or part_of(name) and len(parts) < 2:
            return here
        if not parts and not (len(inner.folders()) > 1 and not inner.images) and not _says_nothing(name):
            return here
        here = inner
    return here


def _says_nothing(name: str) -> bool:
    """Whether a folder is called images, or JPEGImages."""
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]+|[A-Z]?[a-z]+|\d+", name)
    return all(word.lower() in FILLERS or word.lower() in ("jpeg", "all", "raw") for word in words)


def _parts(here: Branch, place: str) -> dict[str, str]:
    """The folders of each part; empty where the folders are classes."""
    folders = here.folders()
    parts = parts_of(folders, place, classes=True)
    odd = next((name for name in folders if not parts and part_of(name) == ("train", ())), None)
    if odd and len(folders[odd].folders()) > 1 and not folders[odd].images:
        others = ", ".join(sorted(set(folders) - {odd})[:3])
        raise ValueError(f"{place} has {odd}/, with folders in it as a part has, beside {others}: {ADVICE}")
    return parts


def _unwrapped_part(branch: Branch) -> Branch:
    """A part's folder, or the one in it that has its name again: seg_train/seg_train/, train/images/."""
    while len(branch.folders()) == 1 and not branch.images:
        name, inner = next(iter(branch.folders().items()))
        if not (part_of(name) or _says_nothing(name) or len(inner.folders()) > 1 and not inner.images):
            break
        branch = inner
    return branch


def _parts_by_class(path: Path, here: Branch, place: str, left: LeftOut) -> dict[str, Files]:
    """The parts of a set that has them within each class: cat/train/, cat/test/, dog/train/, ..."""
    classes = here.folders()
    within = {name: parts_among(branch.folders()) for name, branch in classes.items()}
    divided = [name for name, parts in within.items() if len(set(parts.values())) > 1]
    if not divided:
        return {}
    if here.images or len(divided) < len(classes) or any(len(set(p.values())) < len(p) for p in within.values()):
        raise ValueError(
            f"{place} has parts within {divided[0]}/ ({', '.join(sorted(within[divided[0]]))}) that the rest does not "
            f"have alike: {ADVICE}"
        )
    found: dict[str, dict[str, Branch]] = {}
    for name, branch in classes.items():
        for inner, below in branch.folders().items():
            if inner in within[name]:
                found.setdefault(within[name][inner], {})[name] = below
            else:
                left.note(Reason.PART, f"{inner}/", len(below.files()))
        for image in branch.images:
            left.note(Reason.LOOSE, image)
    return {part: _by_class(path, branches) for part, branches in found.items()}


def listed(root: Path, branch: Branch) -> Files:
    """The images of a folder, by class if it has class folders and nothing speaks against it."""
    classes = branch.folders()
    if not classes:
        return Files(root, tuple(branch.files()))
    if branch.images:
        beside = f"images such as {branch.images[0]} {BESIDE} {', '.join(list(classes)[:3])}"
        return Files(root, tuple(branch.files()), reason=beside)
    if all(DATES.fullmatch(name) for name in classes):
        return Files(root, tuple(branch.files()), reason=f"folders such as {next(iter(classes))} are dates")
    return _by_class(root, classes)


def _by_class(root: Path, classes: dict[str, Branch]) -> Files:
    of_class = [branch.files() for branch in classes.values()]
    files = np.array([file for files in of_class for file in files], dtype=object)
    label = np.repeat(np.arange(len(classes)), [len(files) for files in of_class])
    order = np.lexsort((label, rank(label)))
    return Files(root, tuple(files[order]), label[order].astype(np.int64), tuple(classes))
