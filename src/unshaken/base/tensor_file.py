"""Safetensors files with a validated header and a checksum of the entire file."""

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
"""The largest header in bytes; safetensors has the same limit."""
MOST = 1 << 40
"""The largest file in bytes. It is far above any memory: the file's own size is the bound that matters."""
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits per number, by the dtype's name in safetensors."""
_ENTRY = {"dtype": tuple(BITS), "shape": Items(Whole(0, 1 << 48), most=32), "data_offsets": Items(Whole(0), 2, 2)}
_CHECKSUM = re.compile(rb'"%s":"([0-9a-f]{%d})"' % (FIELD.encode(), DIGITS))


@dataclass(frozen=True)
class Entry:
    """A tensor's dtype and shape, and its position in the file: byte offsets from the beginning."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A file's tensors by name, and its metadata."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]
    size: int
    """The header's size in bytes, including the 8 bytes of its length."""


def read_header(path: Path) -> Header:
    """Read only the header of any safetensors file. ValueError, in one line, if it does not fit the file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with naming(path), open(path, "rb") as file:
        total = path.stat().st_size
        start = file.read(8)
        length = _length(start, total, str(path))
        text = file.read(length)
    return _header(text, length, total, str(path))


def read_tensor_file(path: Path) -> tuple[bytearray, Header]:
    """Read any safetensors file: its content, and its header, which fits the content."""
    content = read_bytes(path, MOST)
    return content, header_of(content, str(path))


def header_of(content: bytes | bytearray, where: str) -> Header:
    """Return the header of a safetensors file's content, which fits the content."""
    length = _length(content[:8], len(content), where)
    return _header(content[8 : 8 + length], length, len(content), where)


def _length(start: bytes | bytearray, total: int, where: str) -> int:
    """Return the length of the header's text, which the first eight bytes state."""
    length = int.from_bytes(start, "little")
    if total < 10 or not 2 <= length <= min(total - 8, MOST_HEADER):
        what = "it is empty" if total == 0 else f"it has {total:,} bytes, but states a header of {length:,}"
        raise ValueError(f"{where} is not a complete safetensors file ({what}): use another copy")
    return length


def _header(text: bytes | bytearray, length: int, total: int, where: str) -> Header:
    try:
        found = parse_json(text, "its header", Each({}))
        metadata = check_shape(found.pop("__metadata__", {}), Each(str), "its header", "__metadata__")
        tensors = {name: _entry(name, each, 8 + length) for name, each in found.items()}
        _fit(tensors, 8 + length, total)
    except ValueError as error:
        raise ValueError(f"{where} is not a complete safetensors file ({error}): use another copy") from None
    return Header(tensors, metadata, 8 + length)


def _entry(name: str, value: dict[str, Any], begin: int) -> Entry:
    check_shape(value, _ENTRY, "its header", name[:80])
    entry = Entry(value["dtype"], tuple(value["shape"]), *(begin + at for at in value["data_offsets"]))
    if entry.end - entry.begin != prod(entry.shape) * BITS[entry.dtype] // 8:
        raise ValueError(f"the number of bytes of its tensor {name[:80]!r} does not fit the shape")
    return entry


def _fit(tensors: dict[str, Entry], begin: int, total: int) -> None:
    """Raise a ValueError unless the tensors fill the file, without a gap or an overlap."""
    at = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise ValueError(f"its tensor {name[:80]!r} does not begin where the one before it ends")
        at = entry.end
    if at != total:
        raise ValueError(f"its tensors end at byte {at:,}, but it has {total:,}")


def sealed(metadata: dict[str, str]) -> dict[str, str]:
    """Return the metadata with a field of zeros for the checksum, which `seal` fills in."""
    return metadata | {FIELD: "0" * DIGITS}


def seal(content: bytes) -> tuple[bytes, memoryview]:
    """Fill in the checksum of a file's content, where `sealed` left room for it; the content is returned in pieces.

    The metadata are also sorted by name, so that equal contents are equal files: the safetensors library writes them
    in random order.
    """
    size = 8 + int.from_bytes(content[:8], "little")
    head, rest = content[:8] + _sort_metadata(content[8:size]), memoryview(content)[size:]
    start, end = _find_checksum(head, size, "a new file")
    pieces: Iterable[Any] = (head[:start], b"0" * (end - start), head[end:], rest)
    return head[:start] + checksum(pieces).encode() + head[end:], rest


def _sort_metadata(header: bytes) -> bytes:
    """Sort the metadata of a header by name, without changing its length."""
    found = json.loads(header)
    found["__metadata__"] = dict(sorted(found["__metadata__"].items()))
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    return text.ljust(len(header)) if len(text) <= len(header) else header


def check_seal(content: bytearray, header: Header, path: Path) -> None:
    """Raise a ValueError, in one line, unless every bit of the file is as it was written."""
    stated = header.metadata.get(FIELD)
    if stated is None:
        raise ValueError(
            f"{path} has no checksum: an earlier version of unshaken wrote it, or it was altered. "
            f"If you trust it, `unshaken verify --write {path}` adds one"
        )
    start, end = _find_checksum(content, header.size, str(path))
    if content[start:end].decode() != sum_of(content, start, end):
        raise ValueError(f"{path} was damaged or altered: its checksum does not fit its content. Use another copy")


def check_own(path: Path) -> None:
    """Raise a ValueError if a file is incomplete, or if we exported it and it was changed since."""
    header = read_header(path)
    if {FIELD, "about"} <= header.metadata.keys():
        content, header = read_tensor_file(path)
        check_seal(content, header, path)


def sum_of(content: bytes | bytearray, start: int, end: int) -> str:
    """Return the checksum of a file's bytes, with zeros in place of the checksum at [start, end)."""
    view = memoryview(content)
    pieces: Iterable[Any] = (view[:start], b"0" * (end - start), view[end:])
    return checksum(pieces)


def _find_checksum(content: bytes | bytearray, size: int, where: str) -> tuple[int, int]:
    """Return the begin and end of the checksum in the header."""
    # the pattern cannot match inside another field's text: quotation marks there have a backslash before them
    found = _CHECKSUM.search(content, 8, size)
    if found is None:
        raise ValueError(f"{where} was damaged or altered: its header has no valid checksum. Use another copy")
    return found.span(1)
