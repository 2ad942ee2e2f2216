"""JSON that is checked when it is read: its checksum, its depth and size, and the shape of every field."""

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
"""How deep a JSON value may be nested; ours are at most some ten levels deep."""
MOST = 1 << 28
"""Bytes that a JSON file may have."""


def parse_json(text: str | bytes | bytearray, where: str, shape: Shape = object) -> Any:
    """The value that a JSON text stands for. ValueError, in one line with `where` in it, for anything else.

    A field that is there twice, NaN, infinity and nesting deeper than DEPTH are refused too.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        if depth_of(text) > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} levels deep")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} cannot be read as JSON (byte {error.start} is not UTF-8)") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{where} cannot be read as JSON ({reason[:200]})") from None
    return check_shape(value, shape, where)


def depth_of(text: str) -> int:
    """How deep the brackets of a JSON text are nested, those within strings left out."""
    if text.count("[") + text.count("{") <= DEPTH:
        return 0
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it has the field {twice[:40]!r} twice")
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number in JSON")


def read_foreign_json(path: Path, shape: Shape = object) -> Any:
    """What a JSON file of somebody else says: its shape is checked, and there is no checksum to check."""
    return parse_json(read_bytes(path, MOST), str(path), shape)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object, indented for people, with a checksum of all that it says. NaN is refused: JSON has none."""
    write_text(path, json.dumps(with_checksum(value), indent=1) + "\n")


def with_checksum(value: dict[str, Any], before: str = "") -> dict[str, Any]:
    """An object with the checksum of its other fields as its last one."""
    assert FIELD not in value, f"{FIELD!r} is the name of the checksum"
    plain = json.loads(json.dumps(value, allow_nan=False))  # names as text, tuples as lists: what will be read
    return plain | {FIELD: checksum_of(plain, before)}


def read_json(path: Path, shape: Shape = object) -> dict[str, Any]:
    """What `write_json` wrote, without the checksum.

    ValueError, in one line with the file's name in it, if there is no such file, if it is no JSON object, if it was
    damaged or altered, or if it has another shape.
    """
    found = parse_json(read_bytes(path, MOST), str(path))
    return check_shape(_opened(found, str(path)), shape, str(path))


def _opened(found: Any, where: str, before: str = "") -> dict[str, Any]:
    """The object without its checksum, which is checked."""
    if not isinstance(found, dict):
        raise ValueError(f"{where} is {shown(found)}, and has to be an object: it is not a file of unshaken")
    stated = found.pop(FIELD, None)
    if stated is None:
        raise ValueError(
            f"{where} has no checksum: an earlier version of unshaken wrote it, or it was altered. "
            f"`unshaken verify --write {where}` adds one, where it is trusted"
        )
    if stated != _sum(found, before):
        raise ValueError(f"{where} was damaged or altered: its checksum is not that of what it says. Take another copy")
    return found


def _sum(value: dict[str, Any], before: str) -> str:
    try:
        return checksum_of(value, before)
    except ValueError:  # a number too large for a float
        return ""


def add_checksum(path: Path) -> None:
    """Add the checksum to a JSON file of an earlier version, as it is. ValueError if it has one that is wrong."""
    found = read_foreign_json(path, {})
    if FIELD in found:
        read_json(path)
    else:
        write_json(path, found)


def add_checksums_to_lines(path: Path) -> None:
    """Add the checksums to a file of lines of an earlier version. ValueError if it has some that are wrong."""
    pieces = bytes(read_bytes(path, MOST)).split(b"\n")[:-1]
    values = [parse_json(piece, f"{path}, line {number}", {}) for number, piece in enumerate(pieces, 1)]
    lines = Lines(path)
    if all(FIELD not in value for value in values):
        lines.rewrite(values)
    elif lines.fault:
        raise ValueError(lines.fault)


class Lines:
    """A file of one JSON object a line, which grows. Each line has a checksum of itself and of that of the line before.

    A last line that is not whole is left out, as after a crash. A line that was damaged is left out too, and so is a
    line that does not follow on the one before it: `fault` says so.

    values  the sound objects, without their checksums
    fault   what was damaged, in one line; empty if nothing was
    """

    def __init__(self, path: Path, shape: Shape = object) -> None:
        self.path, self.values, self.fault = path, [], ""
        self._last = ""
        if path.exists():
            self._read(shape)

    def _read(self, shape: Shape) -> None:
        pieces = bytes(read_bytes(self.path, MOST)).split(b"\n")
        torn = pieces.pop()  # what was written of a line when a process was killed; nothing after a whole line
        strange = torn and not b'{"'.startswith(torn[:2])
        faults, before = [f"{self.path} ends in the middle of something else"] if strange else [], ""
        for number, piece in enumerate(pieces, 1):
            where = f"{self.path}, line {number}"
            try:
                found = parse_json(piece, where, {FIELD: str})
                before, stated = found[FIELD], before
                self.values.append(check_shape(_opened(found, where, stated), shape, where))
            except ValueError as error:
                faults.append(str(error))
        self._last = before
        self.fault = faults[-1] if faults else ""
        if len(faults) > 1:
            self.fault += f" (one of {len(faults)} faults)"

    def set_aside(self) -> Path | None:
        """Keep a damaged file under another name, which is returned: what is in it may be of use to its owner."""
        if not self.fault:
            return None
        aside = next(p for k in count(1) if not (p := self.path.with_name(f"{self.path.name}.damaged{k}")).exists())
        with naming(self.path):
            self.path.rename(aside)
        return aside

    def rewrite(self, values: list[dict[str, Any]]) -> None:
        """Make these the only lines, atomically."""
        self._last = ""
        write_text(self.path, "".join([self._next(value) for value in values]))

    def append(self, value: dict[str, Any]) -> None:
        append_text(self.path, self._next(value))

    def _next(self, value: dict[str, Any]) -> str:
        line = with_checksum(value, self._last)
        self._last = line[FIELD]
        return json.dumps(line) + "\n"
