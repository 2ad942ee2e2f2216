"""The format of a packed image set: encoded images one after the other in one file, then an index of all of them"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import load, save

from unshaken.base.checksum import checksum
from unshaken.base.json_files import parse_json
from unshaken.base.json_shapes import Each, Items, Or, Whole
from unshaken.base.tensor_file import Header, check_seal, header_of, seal, sealed
from unshaken.data.decode import Encoded
from unshaken.data.folder_index import Found, Listing
from unshaken.storage.cache import stamp
from unshaken.storage.stored_pixels import PositionedFile

BEGIN = b"unshaken packed images, version 1\n".ljust(64, b"\n")
"""The first bytes of the file. The images follow, then the index, its length in 8 bytes, and END."""
END = b"unshpack"
MOST_INDEX = 1 << 33
"""The largest index in bytes, of some ninety million images."""
ABOUT = {
    "location": str,
    "splits": Items({"name": ("train", "test", "all"), "count": Whole(0), "classes": Items(str), "reason": str}),
    "by_content": bool,
    "errors": Each(str),
    "unreadable": Items(str),
    "deep": Items(Whole(0), 3, 3),
    "short_side": Or((Whole(1), None)),
    "bits": Or((Whole(8, 16), None)),
}
"""The shape of the index's text.

location    what was packed
splits      the splits in the order of their images
unreadable  why images were left out
deep        as in `storage.memmap.Shard`
short_side  the shorter side to which images were encoded again; None: all bytes are those of the source
"""
ARRAYS = {"offsets": "I64", "digests": "U64", "sums": "U8", "names": "U8", "name_ends": "I64"}
"""The arrays of the index, by name, with their dtypes. `label.SPLIT` (I64) are there for splits with labels.

offsets    (N + 1) where each image begins in the file
digests    (N) the digest of each image's pixels, at their original size
sums       (N 16) BLAKE2b of each image's bytes
names      all names of images in UTF-8
name_ends  (N) where each name ends
"""


def sum_of_bytes(content: bytes) -> bytes:
    """Return the checksum of an image's bytes."""
    return blake2b(content, digest_size=16).digest()


def is_packed(path: Path) -> bool:
    """Return whether a file begins like a packed image set."""
    try:
        with open(path, "rb") as file:
            return file.read(len(BEGIN)) == BEGIN
    except OSError:
        return False


def write_index(file: IO[bytes], arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write the end of a packed set: the index with a checksum, and where it begins."""
    pieces = seal(save(arrays, sealed({"about": json.dumps(about, allow_nan=False)})))
    for piece in (*pieces, sum(map(len, pieces)).to_bytes(8, "little"), END):
        file.write(piece)


@dataclass(frozen=True, eq=False)
class PackedFile:
    """A packed image set: its index in memory, its images in the file."""

    file: PositionedFile
    arrays: dict[str, np.ndarray]
    about: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.file.path

    def content(self, row: int) -> bytes:
        """Read an encoded image. ValueError, in one line, if it was damaged."""
        begin, end = self.arrays["offsets"][row : row + 2].tolist()
        content = self.file.read(end - begin, begin)
        if sum_of_bytes(content) != self.arrays["sums"][row].tobytes():
            raise ValueError(
                f"{self.path} was damaged: {self.name(row)} in it does not match its checksum. Use another copy, or "
                "pack the images again"
            )
        return content

    def name(self, row: int) -> str:
        ends = self.arrays["name_ends"]
        return self.arrays["names"][ends[row - 1] if row else 0 : ends[row]].tobytes().decode()

    def found(self) -> Found:
        """Return the splits of the set, as they were when it was packed."""
        splits, begin = {}, 0
        for split in self.about["splits"]:
            rows, label = np.arange(begin, begin + split["count"]), self.arrays.get(f"label.{split['name']}")
            splits[split["name"]] = PackedImages(self, rows, label, tuple(split["classes"]), split["reason"])
            begin += split["count"]
        return Found(str(self.path), splits, errors=self.about["errors"], by_content=self.about["by_content"])


@dataclass(frozen=True, eq=False)
class PackedImages(Listing):
    """Images of a packed set, by their rows in its index."""

    packed: PackedFile
    rows: np.ndarray
    label: np.ndarray | None = None
    names: tuple[str, ...] = ()
    reason: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, rows: np.ndarray) -> PackedImages:
        return replace(self, rows=self.rows[rows], label=None if self.label is None else self.label[rows])

    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        return ((self.packed.name(row), self.packed.content(row)) for row in self.rows.tolist())

    def called(self, rows: np.ndarray) -> tuple[str, ...]:
        return tuple(self.packed.name(row) for row in self.rows[rows].tolist())

    def stamp(self) -> object:
        return stamp([self.packed.path]), checksum([self.rows.tobytes()])


class FileNames(Sequence[str]):
    """The names of packed images, read when they are asked for: a million texts would take as much as their index."""

    def __init__(self, packed: PackedFile, rows: np.ndarray) -> None:
        self.packed, self.rows = packed, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return FileNames(self.packed, self.rows[place])
        return self.packed.name(int(self.rows[place]))


def read_packed(path: Path) -> PackedFile:
    """Read the index of a packed set. ValueError, in one line, if the file was damaged or is incomplete."""
    file = PositionedFile(path)
    size = path.stat().st_size
    tail = file.read(16, size - 16) if size >= len(BEGIN) + 16 else b""
    length = int.from_bytes(tail[:8], "little")
    if file.read(len(BEGIN), 0) != BEGIN or tail[8:] != END or not 0 < length <= size - len(BEGIN) - 16:
        raise ValueError(f"{path} is not a complete packed image set: use another copy, or pack the images again")
    if length > MOST_INDEX:
        raise ValueError(f"{path} states an index of {length:,} bytes, which is too many")
    content = bytearray(file.read(length, size - 16 - length))
    where = f"the index of {path}"
    header = header_of(content, where)
    check_seal(content, header, path)
    about = parse_json(header.metadata.get("about", ""), where, ABOUT)
    _check_entries(header, about, path)
    arrays = load(bytes(content))
    _check_arrays(arrays, about, size - 16 - length, path)
    return PackedFile(file, arrays, about)


def _check_entries(header: Header, about: dict[str, Any], path: Path) -> None:
    """Raise a ValueError unless the index has the arrays of this version."""
    found = {name: entry.dtype for name, entry in header.tensors.items()}
    labels = {name for name in found if name.startswith("label.")}
    expected = ARRAYS | dict.fromkeys(labels & {f"label.{split['name']}" for split in about["splits"]}, "I64")
    if found != expected:
        raise ValueError(f"the index of {path} does not have the arrays of this version: pack the images again")


def _check_arrays(arrays: dict[str, np.ndarray], about: dict[str, Any], end: int, path: Path) -> None:
    """Raise a ValueError unless all positions lie in the file, and all labels are of a class."""
    count, offsets, ends = sum(split["count"] for split in about["splits"]), arrays["offsets"], arrays["name_ends"]
    shapes = {"offsets": (count + 1,), "digests": (count,), "sums": (count, 16), "name_ends": (count,)}
    sound = all(arrays[name].shape == shape for name, shape in shapes.items()) and arrays["names"].ndim == 1
    sound = sound and offsets[0] == len(BEGIN) and offsets[-1] == end and bool((np.diff(offsets) >= 0).all())
    sound = sound and bool((np.diff(ends, prepend=0) >= 0).all()) and (ends[-1] if count else 0) == arrays["names"].size
    for split in about["splits"]:
        label = arrays.get(f"label.{split['name']}", np.zeros(split["count"], np.int64))
        inside = ((label >= 0) & (label < max(len(split["classes"]), 1))).all()
        sound = sound and label.shape == (split["count"],) and bool(inside)
    if not sound:
        raise ValueError(f"the index of {path} contradicts itself: use another copy, or pack the images again")
