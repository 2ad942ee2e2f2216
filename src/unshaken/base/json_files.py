"""JSON files with a checksum, validated on reading: depth, size, and the shape of every field."""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

from unshaken.base.atomic_files import append_text, naming, read_bytes, replacing, sweep, write_bytes, write_text
from unshaken.base.checksum import FIELD, checksum_of
from unshaken.base.json_shapes import Shape, check_shape, shown

__all__ = [
    "MOST",
    "Lines",
    "add_checksum",
    "add_checksums_to_lines",
    "append_text",
    "naming",
    "parse_json",
    "read_bytes",
    "read_foreign_json",
    "read_json",
    "replacing",
    "sweep",
    "write_bytes",
    "write_json",
    "write_text",
]

DEPTH = 64
"""The deepest nesting that is read; our own files have about ten levels."""
MOST = 1 << 28
"""The largest JSON file that is read, in bytes."""


def parse_json(text: str | bytes | bytearray, where: str, shape: Shape = object) -> Any:
    """Parse a JSON text and check its shape. ValueError, in one line that names `where`, if that fails.

    Duplicate fields, NaN, infinity and nesting deeper than DEPTH are refused too.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        if depth_of(text) > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} levels deep")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} cannot be read as JSON (byte {error.start} is not UTF-8)") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{where} cannot be read as JSON ({reason[:200]})") from None
    return check_shape(value, shape, where)


def depth_of(text: str) -> int:
    """Return how deep the brackets of a JSON text are nested, not counting brackets within strings."""
    if text.count("[") + text.count("{") <= DEPTH:
        return 0
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in fields if names.count(name) > 1)
        raise ValueError(f"it has the field {twice[:40]!r} twice")
    return fields


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def read_foreign_json(path: Path, shape: Shape = object) -> Any:
    """Read a JSON file that another program wrote: its shape is checked; it has no checksum."""
    return parse_json(read_bytes(path, MOST), str(path), shape)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as indented JSON, with a checksum. NaN is refused, because JSON has no NaN."""
    write_text(path, json.dumps(with_checksum(value), indent=1) + "\n")


def with_checksum(value: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return the object with one more field: the checksum of the other fields."""
    assert FIELD not in value, f"the field {FIELD!r} is reserved for the checksum"
    plain = json.loads(json.dumps(value, allow_nan=False))  # as it will be read: names as text, tuples as lists
    return plain | {FIELD: checksum_of(plain, before)}


def read_json(path: Path, shape: Shape = object) -> dict[str, Any]:
    """Read what `write_json` wrote, and return it without the checksum.

    ValueError, in one line that names the file, if the file does not exist, is not a JSON object, was damaged or
    altered, or has another shape.
    """
    found = parse_json(read_bytes(path, MOST), str(path))
    return check_shape(_verify_checksum(found, str(path)), shape, str(path))


def _verify_checksum(found: Any, where: str, before: str = "") -> dict[str, Any]:
    """Check the object's checksum and return the object without it."""
    if not isinstance(found, dict):
        raise ValueError(f"{where} is {shown(found)}, but must be an object: unshaken did not write this file")
    stated = found.pop(FIELD, None)
    if stated is None:
        raise ValueError(
            f"{where} has no checksum: an earlier version of unshaken wrote it, or it was altered. "
            f"If you trust it, `unshaken verify --write {where}` adds one"
        )
    if stated != _sum(found, before):
        raise ValueError(f"{where} was damaged or altered: its checksum does not fit its content. Use another copy")
    return found


def _sum(value: dict[str, Any], before: str) -> str:
    try:
        return checksum_of(value, before)
    except ValueError:  # a number too large for a float
        return ""


def add_checksum(path: Path) -> None:
    """Add a checksum to a JSON file of an earlier version. ValueError if it has a wrong one."""
    found = read_foreign_json(path, {})
    if FIELD in found:
        read_json(path)
    else:
        write_json(path, found)


def add_checksums_to_lines(path: Path) -> None:
    """Add checksums to the lines of a file of an earlier version. ValueError if it has wrong ones."""
    pieces = bytes(read_bytes(path, MOST)).split(b"\n")[:-1]
    values = [parse_json(piece, f"{path}, line {number}", {}) for number, piece in enumerate(pieces, 1)]
    lines = Lines(path)
    if all(FIELD not in value for value in values):
        lines.rewrite(values)
    elif lines.fault:
        raise ValueError(lines.fault)


class Lines:
    """A growing file with one JSON object per line.

    Each line has a checksum that covers the line and the checksum of the line before it.
    An incomplete last line, as a crash leaves it, is ignored. A damaged line, or one that does not follow the line
    before it, is left out and reported in `fault`.

    values  the undamaged objects, without their checksums
    fault   the damage that was found, in one line; empty if there is none
    """

    def __init__(self, path: Path, shape: Shape = object) -> None:
        self.path, self.values, self.fault = path, [], ""
        self._last = ""
        if path.exists():
            self._read(shape)

    def _read(self, shape: Shape) -> None:
        pieces = bytes(read_bytes(self.path, MOST)).split(b"\n")
        torn = pieces.pop()  # the incomplete line that a killed process left; empty after a complete line
        foreign = torn and not b'{"'.startswith(torn[:2])
        faults, before = [f"{self.path} ends in something that is not a JSON object"] if foreign else [], ""
        for number, piece in enumerate(pieces, 1):
            where = f"{self.path}, line {number}"
            try:
                found = parse_json(piece, where, {FIELD: str})
                before, stated = found[FIELD], before
                self.values.append(check_shape(_verify_checksum(found, where, stated), shape, where))
            except ValueError as error:
                faults.append(str(error))
        self._last = before
        self.fault = faults[-1] if faults else ""
        if len(faults) > 1:
            self.fault += f" (one of {len(faults)} faults)"

    def set_aside(self) -> Path | None:
        """Rename a damaged file, so that its owner can still read it, and return the new name."""
        if not self.fault:
            return None
        aside = next(p for k in count(1) if not (p := self.path.with_name(f"{self.path.name}.damaged{k}")).exists())
        with naming(self.path):
            self.path.rename(aside)
        return aside

    def rewrite(self, values: list[dict[str, Any]]) -> None:
        """Replace all lines by these, atomically."""
        self._last = ""
        write_text(self.path, "".join([self._next(value) for value in values]))

    def append(self, value: dict[str, Any]) -> None:
        append_text(self.path, self._next(value))

    def _next(self, value: dict[str, Any]) -> str:
        line = with_checksum(value, self._last)
        self._last = line[FIELD]
        return json.dumps(line) + "\n"
