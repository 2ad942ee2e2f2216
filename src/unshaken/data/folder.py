"""A folder of a user's own images: one folder a class, or all of them in one without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unshaken.data.cache import stamp
from unshaken.data.decode import Encoded
from unshaken.data.held_out import rank
from unshaken.data.listing import TEST_PARTS, Listing, fifths

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")


@dataclass(frozen=True, eq=False)
class Files(Listing):
    """Image files, by their paths from the folder they were found under."""

    root: Path
    files: tuple[str, ...]
    label: np.ndarray | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def at(self, rows: np.ndarray) -> Files:
        label = None if self.label is None else self.label[rows]
        return replace(self, files=tuple(self.files[row] for row in rows), label=label)

    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        return ((file, self.root / file) for file in self.files)

    def stamp(self) -> object:
        return stamp(self.root / file for file in self.files)


def folder(path: Path) -> dict[str, Listing]:
    """The splits of `path`: its train/ and test/ (or val/) if it has both, else every fifth image of each class.

    Classes are the sorted names of the subfolders that hold images, at any depth. The first image of each class
    comes before the second of any, so that a limited set is a fair one.
    """
    folders = {entry.name for entry in _entries(path) if _is_folder(entry)}
    test = next((part for part in TEST_PARTS if part in folders), None)
    if "train" in folders and test is not None:
        train = listed(path, "train", ())
        return {"train": train, "test": listed(path, test, train.names)}
    if folders == {"train"} or folders == {test}:  # a part by itself is not a class of that name
        part = listed(path, *folders, ())
        return {"test": part} if test else fifths(part, path)
    return fifths(listed(path, "", ()), path)


def listed(root: Path, part: str, names: tuple[str, ...]) -> Files:
    """The images under a part of `root`, by class if there are class folders; `names` are the classes there may be."""
    place = root / part
    loose = [entry.name for entry in _entries(place) if _is_image(entry)]
    classes = {entry.name: _below(Path(entry.path), place) for entry in _entries(place) if _is_folder(entry)}
    classes = {name: files for name, files in classes.items() if files}
    if loose and classes:
        raise ValueError(
            f"{place} has both loose images ({loose[0]}, ...) and folders of images ({next(iter(classes))}/, ...): "
            "move the loose ones into a class, or away"
        )
    if not loose and not classes:
        raise ValueError(f"{place} has no images (looked for {', '.join(SUFFIXES)})")
    if loose:
        return Files(root, tuple(str(Path(part, name)) for name in loose))
    if names and (unknown := sorted(set(classes) - set(names))):
        raise ValueError(f"{place} has a class that the train part lacks: {unknown[0]!r}; it has {', '.join(names)}")
    names = names or tuple(classes)
    files = np.array([str(Path(part, file)) for name in classes for file in classes[name]], dtype=object)
    label = np.repeat([names.index(name) for name in classes], [len(files) for files in classes.values()])
    order = np.lexsort((label, rank(label)))
    return Files(root, tuple(files[order]), label[order].astype(np.int64), names)


def _below(place: Path, root: Path) -> list[str]:
    """All images under a class folder, sorted, as paths from `root`.

    Links to folders are followed, but no folder is entered twice and none that contains `root`, so that a link
    in a circle neither hangs nor brings in the other classes.
    """
    entered = {str(parent) for parent in (root.resolve(), *root.resolve().parents)}
    found, waiting = [], [place]
    while waiting:
        here = waiting.pop()
        if (real := os.path.realpath(here)) in entered:
            continue
        entered.add(real)
        entries = _entries(here)
        waiting += [Path(entry.path) for entry in entries if _is_folder(entry)]
        found += [Path(entry.path).relative_to(root).as_posix() for entry in entries if _is_image(entry)]
    return sorted(found)


def _is_image(entry: os.DirEntry[str]) -> bool:
    # a dangling link is no file, but it is named among the unreadable images and not passed over
    return Path(entry.name).suffix.lower() in SUFFIXES and not _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # entry.is_dir() would raise an error for a link to itself
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _entries(place: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; hidden entries are not meant as images."""
    try:
        with os.scandir(place) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{place} cannot be listed: {error.strerror}") from error
