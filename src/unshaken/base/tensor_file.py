"""Safetensors files: a header that is checked before anything in it is trusted, and a checksum of the whole file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from unshaken.base.atomic_files import naming, read_bytes
from unshaken.base.checksum import DIGITS, FIELD, checksum
from unshaken.base.json_files import parse_json
from unshaken.base.json_shapes import Each, Items, Whole, check_shape

MOST_HEADER = 100_000_000
"""Bytes of a header, as safetensors itself has it."""
MOST = 1 << 40
"""Bytes of a file: memory is the true bound, and what a header says is bounded by the file's own size."""
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of a number by its kind."""
_ENTRY = {"dtype": tuple(BITS), "shape": Items(Whole(0, 1 << 48), most=32), "data_offsets": Items(Whole(0), 2, 2)}
_CHECKSUM = re.compile(rb'"%s":"([0-9a-f]{%d})"' % (FIELD.encode(), DIGITS))


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its file, in bytes from the beginning, and what it is."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors, by their names, and of itself."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]
    size: int
    """Bytes of the header, with its length before it."""


def read_header(path: Path) -> Header:
    """The header alone, of a file of anybody's. ValueError, in one line, if it is not one that fits the file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with naming(path), open(path, "rb") as file:
        total = path.stat().st_size
        start = file.read(8)
        length = _length(start, total, str(path))
        text = file.read(length)
    return _header(text, length, total, str(path))


def read_tensor_file(path: Path) -> tuple[bytearray, Header]:
    """The content of a file of anybody's, and its header, which fits it."""
    content = read_bytes(path, MOST)
    length = _length(content[:8], len(content), str(path))
    return content, _header(content[8 : 8 + length], length, len(content), str(path))


def _length(start: bytes | bytearray, total: int, where: str) -> int:
    """Of the header's text, as the first eight bytes say it."""
    length = int.from_bytes(start, "little")
    if total < 10 or not 2 <= length <= min(total - 8, MOST_HEADER):
        what = "it is empty" if total == 0 else f"it has {total:,} bytes, and its header would have {length:,}"
        raise ValueError(f"{where} is not a whole safetensors file ({what}): take another copy")
    return length


def _header(text: bytes | bytearray, length: int, total: int, where: str) -> Header:
    try:
        found = parse_json(text, "its header", Each({}))
        metadata = check_shape(found.pop("__metadata__", {}), Each(str), "its header", "__metadata__")
        tensors = {name: _entry(name, each, 8 + length) for name, each in found.items()}
        _fit(tensors, 8 + length, total)
    except ValueError as error:
        raise ValueError(f"{where} is not a whole safetensors file ({error}): take another copy") from None
    return Header(tensors, metadata, 8 + length)


def _entry(name: str, value: dict[str, Any], begin: int) -> Entry:
    check_shape(value, _ENTRY, "its header", name[:80])
    entry = Entry(value["dtype"], tuple(value["shape"]), *(begin + at for at in value["data_offsets"]))
    if entry.end - entry.begin != prod(entry.shape) * BITS[entry.dtype] // 8:
        raise ValueError(f"its tensor {name[:80]!r} has another number of bytes than its shape needs")
    return entry


def _fit(tensors: dict[str, Entry], begin: int, total: int) -> None:
    """ValueError unless the tensors fill the file, without a gap or an overlap."""
    at = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise ValueError(f"its tensor {name[:80]!r} does not begin where the one before it ends")
        at = entry.end
    if at != total:
        raise ValueError(f"its tensors end at byte {at:,}, and it has {total:,}")


def sealed(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata with room for the checksum, which `seal` fills in."""
    return metadata | {FIELD: "0" * DIGITS}


def seal(content: bytes) -> tuple[bytes, memoryview]:
    """The content of a file, in pieces, with its checksum in the header, where `sealed` has left room for it.

    The header says the same in the same order each time, so that equal contents are equal files: the library that made
    it writes its metadata in an order of chance.
    """
    size = 8 + int.from_bytes(content[:8], "little")
    head, rest = content[:8] + _in_order(content[8:size]), memoryview(content)[size:]
    start, end = _place(head, size, "a new file")
    pieces: Iterable[Any] = (head[:start], b"0" * (end - start), head[end:], rest)
    return head[:start] + checksum(pieces).encode() + head[end:], rest


def _in_order(header: bytes) -> bytes:
    """The same header, of the same length, with its metadata sorted by name."""
    found = json.loads(header)
    found["__metadata__"] = dict(sorted(found["__metadata__"].items()))
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    return text.ljust(len(header)) if len(text) <= len(header) else header


def check_seal(content: bytearray, header: Header, path: Path) -> None:
    """ValueError, in one line, unless the file is bit for bit as it was written."""
    stated = header.metadata.get(FIELD)
    if stated is None:
        raise ValueError(
            f"{path} has no checksum: an earlier version of unshaken wrote it, or it was altered. "
            f"`unshaken verify --write {path}` adds one, where it is trusted"
        )
    start, end = _place(content, header.size, str(path))
    if content[start:end].decode() != sum_of(content, start, end):
        raise ValueError(f"{path} was damaged or altered: its checksum is not that of what it says. Take another copy")


def check_own(path: Path) -> None:
    """ValueError if a file is not whole, or if it is one that we wrote for other programs and not as it was written."""
    header = read_header(path)
    if {FIELD, "about"} <= header.metadata.keys():
        content, header = read_tensor_file(path)
        check_seal(content, header, path)


def sum_of(content: bytes | bytearray, start: int, end: int) -> str:
    """The checksum of all bytes of a file, but with zeros where the checksum stands."""
    view = memoryview(content)
    pieces: Iterable[Any] = (view[:start], b"0" * (end - start), view[end:])
    return checksum(pieces)


def _place(content: bytes | bytearray, size: int, where: str) -> tuple[int, int]:
    """Where the checksum stands in the header."""
    found = _CHECKSUM.search(content, 8, size)  # text within text has a backslash before each quotation mark
    if found is None:
        raise ValueError(f"{where} was damaged or altered: it has no checksum where one belongs. Take another copy")
    return found.span(1)
