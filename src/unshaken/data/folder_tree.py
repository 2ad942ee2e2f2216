"""A folder and everything below it: images, Parquet files, and what is left out with the reason."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from unshaken.data.decode import SUFFIXES

TABLE_SUFFIX = ".parquet"
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".psd", ".svg", ".eps", ".ai", ".ps", ".pdf", ".ico", ".icns"),
    *(".exr", ".hdr", ".pcx", ".xcf", ".dcm", ".nii", ".mat", ".jpf", ".jpx", ".j2c", ".jpc", ".sgi", ".qoi", ".pfm"),
    *(".dds", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".mov", ".mp4", ".avi", ".webm"),
)
"""Suffixes of pictures and videos that are not read; `LeftOut` counts them."""
SYSTEM_NAMES = (
    *("__macosx", "lost+found", "thumbs.db", "desktop.ini", "__pycache__", "system volume information"),
    *("#recycle", "#snapshot", "$recycle.bin"),
)
"""Names, in lower case, that systems give to their own files. Names that begin with @ are such too (a NAS's @eaDir)."""
DEEPEST = 64
"""The most levels of folders below the root."""
MOST_LINKS = 16
"""The most links to one folder that are followed, because links among folders can multiply."""


class Reason(Enum):
    """Why an entry is left out, in the singular and in the plural."""

    PICTURE = "picture in a format that is not read", "pictures in formats that are not read"
    OTHER = "file that is not an image", "files that are not images"
    HIDDEN = "hidden entry", "hidden entries"
    SYSTEM = "entry made by the operating system", "entries made by the operating system"
    EMPTY = "folder without images", "folders without images"
    LINKED = "repeated link to a folder", "repeated links to folders"
    DEEP = f"folder below {DEEPEST} levels", f"folders below {DEEPEST} levels"
    BESIDE_SPLITS = "image outside the splits' folders", "images outside the splits' folders"
    UNUSED_SPLIT = "image in a split that is not used", "images in splits that are not used"
    TABLE = "Parquet file", "Parquet files"


@dataclass
class LeftOut:
    """The entries of a folder that are not used, counted by reason, and then by suffix, name or path."""

    counts: dict[Reason, Counter[str]] = field(default_factory=dict)

    def note(self, reason: Reason, kind: str, count: int = 1) -> None:
        self.counts.setdefault(reason, Counter())[kind] += count

    def __str__(self) -> str:
        """Return a list such as "3 pictures in formats that are not read (.HEIC)"; empty if nothing is left out."""
        return ", ".join(
            f"{(total := sum(kinds.values())):,} {reason.value[total != 1]} "
            f"({', '.join(kind for kind, _ in kinds.most_common(4))}{', ...' if len(kinds) > 4 else ''})"
            for reason, kinds in self.counts.items()
        )


@dataclass
class Branch:
    """A folder that holds images or Parquet files, at any depth.

    path    its path from the root; "" for the root itself
    real    its absolute path with links resolved
    images  the sorted names of the images directly in it
    tables  the sorted names of the Parquet files directly in it
    below   the folders in it that hold images or Parquet files, by name
    """

    path: str
    real: str
    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    below: dict[str, Branch] = field(default_factory=dict)

    def files(self, tables: bool = False) -> list[str]:
        """Return all images (or Parquet files) at any depth, as sorted paths from the root.

        A folder that two links lead to counts once.
        """
        found, waiting, entered = [], [self], set()
        while waiting:
            here = waiting.pop()
            if here.real not in entered:
                entered.add(here.real)
                found += [os.path.join(here.path, name) for name in (here.tables if tables else here.images)]
                waiting += here.below.values()  # pyright: ignore[reportOperatorIssue]
        return sorted(found)

    def folders(self, tables: bool = False) -> dict[str, Branch]:
        """Return the folders in it that hold images (or Parquet files), by name."""
        return {name: branch for name, branch in self.below.items() if branch.holds(tables)}

    def holds(self, tables: bool = False) -> bool:
        """Return whether there is any image (or Parquet file) at any depth."""
        return bool(self.tables if tables else self.images) or any(b.holds(tables) for b in self.below.values())


def read_tree(root: Path, left: LeftOut, part: str = "") -> Branch:
    """Read a folder, or the folder `part` in it, with all folders below; what is not used is counted in `left`.

    Links to folders are followed, but neither in circles nor more often than MOST_LINKS.
    ValueError if a folder cannot be listed.
    """
    location = (root / part).resolve()
    above = {str(parent) for parent in (location, *location.parents)}
    return _read(root, part, str(location), above, Counter(), left)


def _read(root: Path, path: str, real: str, above: set[str], links: Counter[str], left: LeftOut) -> Branch:
    branch = Branch(path, real)
    for entry in _entries(root / path):
        inside = os.path.join(path, entry.name)
        reason, kind = reason_to_leave_out(entry.name, _is_folder(entry))
        if _is_folder(entry) and reason is None:
            there = os.path.realpath(entry.path)
            links[there] += entry.is_symlink()
            if there in above or (entry.is_symlink() and links[there] > MOST_LINKS):
                left.note(Reason.LINKED, f"{inside}/")
            elif inside.count(os.sep) >= DEEPEST:
                left.note(Reason.DEEP, f"{inside}/")
            else:
                below = _read(root, inside, there, above | {there}, links, left)
                branch.below[entry.name] = below
                if not (below.images or below.tables or below.below):
                    left.note(Reason.EMPTY, f"{inside}/")
                    del branch.below[entry.name]
        elif reason is not None:
            left.note(reason, kind)
        else:
            (branch.tables if kind == TABLE_SUFFIX else branch.images).append(entry.name)
    return branch


def reason_to_leave_out(name: str, is_folder: bool) -> tuple[Reason | None, str]:
    """Return why an entry is left out (None: it is used), and the suffix or name by which it is counted."""
    suffix = os.path.splitext(name)[1]
    if name.startswith("."):
        return Reason.HIDDEN, name
    if name.lower() in SYSTEM_NAMES or name.startswith("@"):
        return Reason.SYSTEM, name
    if is_folder:
        return None, ""
    if suffix.lower() in (*SUFFIXES, TABLE_SUFFIX):
        return None, suffix.lower()  # a dangling link too: it is reported as an image that cannot be read
    return (Reason.PICTURE if suffix.lower() in UNREAD_SUFFIXES else Reason.OTHER), suffix or name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # entry.is_dir() raises an error for a link to itself
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _entries(location: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name."""
    try:
        with os.scandir(location) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{location} cannot be listed: {error.strerror}") from error
