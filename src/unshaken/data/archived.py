"""Image sets inside zip or tar archives: the files of a folder, or shards with a .cls file beside each image"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import numpy as np

from unshaken.data.decode import Encoded
from unshaken.data.folder import Files, folder
from unshaken.data.folder_index import Found, Listing
from unshaken.data.folder_tree import Branch, LeftOut, reason_to_leave_out
from unshaken.data.split_names import split_meant
from unshaken.storage.stored_pixels import PositionedFile

SUFFIXES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")
LARGEST_MEMBER = 1 << 30
"""Bytes of a file in an archive above which it is refused."""

Members = dict[str, Callable[[], bytes]]
"""The files in an archive by their names; each is read by a call."""


@dataclass(frozen=True, eq=False)
class ArchivedFiles(Listing):
    """Image files in archives: the listing of a folder, of which the files are members of archives.

    archives  the archives' stamps
    """

    files: Files
    members: Mapping[str, Callable[[], bytes]]
    archives: object

    @property
    def label(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.files.label

    @property
    def names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.files.names

    @property
    def reason(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.files.reason

    def __len__(self) -> int:
        return len(self.files)

    def at(self, rows: np.ndarray) -> ArchivedFiles:
        return replace(self, files=self.files.at(rows))

    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        return ((file, self.members[file]()) for file in self.files.files)

    def called(self, rows: np.ndarray) -> tuple[str, ...]:
        return self.files.called(rows)

    def stamp(self) -> object:
        return self.archives, self.files.files


def archives_at(path: Path) -> tuple[Path, ...]:
    """Return the archives that a path names: one file, or all those of a folder. ValueError for a compressed tar."""
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    if compressed := next((file for file in inside if file.name.lower().endswith(COMPRESSED)), None):
        raise ValueError(f"{compressed} can only be read from its beginning: unpack it, and name the folder")
    return tuple(file for file in inside if file.is_file() and file.suffix.lower() in SUFFIXES)


def archived(path: Path, archives: tuple[Path, ...]) -> Found:
    """Read the images in archives as if they were unpacked into one folder.

    Shards whose images lie in no folders, and have a .cls file each with the class, are one set with these classes.
    ValueError if an archive was damaged, or if two archives have a file of the same name.
    """
    by_archive = {archive: _members(archive) for archive in archives}
    flat = all("/" not in name for members in by_archive.values() for name in members)
    left, stamps = (
        LeftOut(),
        tuple((str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in archives),
    )
    if flat and len(archives) > 1:
        _check_one_split(path, archives)
    prefixed = flat and len(archives) > 1
    members: Members = {}
    for archive, inside in by_archive.items():
        for name, read in inside.items():
            if (name := f"{archive.stem}/{name}" if prefixed else name) in members:
                raise ValueError(f"{archive} and another archive in {path} both have {name}: name one of them")
            members[name] = read
    found = _flat(path, members, left) if flat else folder(path, _tree(members, left), left)
    splits = {name: ArchivedFiles(files, members, stamps) for name, files in found.splits.items()}  # pyright: ignore[reportArgumentType]
    return replace(found, splits=splits)


def _check_one_split(path: Path, archives: tuple[Path, ...]) -> None:
    """Raise a ValueError if shards are of several splits: train-000.tar and val-000.tar."""
    meant = {split_meant(re.sub(r"[-_. ]*\d[-_.\d]*$", "", archive.stem)) for archive in archives}
    if len(meant) > 1:
        raise ValueError(f"{path} has archives of several splits: put those of each split into a folder of their own")


def _flat(path: Path, members: Members, left: LeftOut) -> Found:
    """Make one set of images without folders. Their classes are in the .cls files beside them, if all have one."""
    files = sorted(name for name in members if _is_image(name, left))
    if not files:
        raise ValueError(f"{path} has no images{f'; left out: {left}' if str(left) else ''}")
    words = [members.get(f"{_key(file)}.cls", bytes)().decode("utf-8", "replace").strip() for file in files]
    if not all(words):
        return Found(str(path), {"all": Files(path, tuple(files))}, left)
    names = sorted(set(words), key=lambda word: (not word.isdecimal(), int(word) if word.isdecimal() else 0, word))
    place = {name: k for k, name in enumerate(names)}
    label = np.array([place[word] for word in words], np.int64)
    return Found(str(path), {"all": Files(path, tuple(files), label, tuple(names))}, left, by_content=True)


def _key(name: str) -> str:
    """Return a member's name without its suffixes, which the files about one image share."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _is_image(name: str, left: LeftOut) -> bool:
    last = PurePosixPath(name).name
    reason, kind = reason_to_leave_out(last, False)
    if reason is not None and not last.endswith(".cls"):
        left.note(reason, kind)
    return reason is None and kind != ".parquet"


def _tree(members: Members, left: LeftOut) -> Branch:
    """Return the folders of an archive, as `folder_tree.read_tree` does for those on a disk."""
    root = Branch("", "/")
    for name in sorted(members):
        *folders, last = PurePosixPath(name).parts
        hidden = [reason_to_leave_out(each, True) for each in folders]
        if unused := next(((reason, kind) for reason, kind in hidden if reason is not None), None):
            left.note(*unused)
        elif _is_image(name, left):
            here = root
            for each in folders:
                inside = str(PurePosixPath(here.path, each))
                here = here.below.setdefault(each, Branch(inside, f"/{inside}"))
            here.images.append(last)
    return root


def _members(archive: Path) -> Members:
    """Return the regular files in an archive. ValueError, in one line, if it was damaged."""
    try:
        found = _in_zip(archive) if archive.suffix.lower() == ".zip" else _in_tar(archive)
    except Exception as error:  # a damaged archive may raise any error
        raise ValueError(f"{archive} cannot be read as an archive ({error}): use another copy") from error
    if large := next((name for name, (size, _) in found.items() if size > LARGEST_MEMBER), None):
        raise ValueError(f"{archive} has a file {large} of more than {LARGEST_MEMBER:,} bytes, which is too large")
    return {str(PurePosixPath(name)).lstrip("/"): read for name, (_, read) in found.items()}


def _in_zip(archive: Path) -> dict[str, tuple[int, Callable[[], bytes]]]:
    packed = ZipFile(archive)

    def reader(name: str) -> Callable[[], bytes]:
        return lambda: packed.read(name)

    return {each.filename: (each.file_size, reader(each.filename)) for each in packed.infolist() if not each.is_dir()}


def _in_tar(archive: Path) -> dict[str, tuple[int, Callable[[], bytes]]]:
    file = PositionedFile(archive)

    def reader(size: int, begin: int) -> Callable[[], bytes]:
        return lambda: file.read(size, begin)

    with tarfile.open(archive, "r:") as packed:
        return {each.name: (each.size, reader(each.size, each.offset_data)) for each in packed if each.isreg()}
