"""Damage to a file, drawn from a seed: what disks, copies, editors and strangers do to one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

OTHERS = (
    b"\x89PNG\r\n\x1a\n" + bytes(200),
    b"PK\x03\x04" + bytes(100),
    b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
    b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }" + b" " * 60 + b"\n",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    b"PAR1" + bytes(64) + b"PAR1",
    b"\x1f\x8b\x08\x00" + bytes(40),
    b"{}",
    b"[]",
    b"null",
    b'"text"',
    b"3",
    b"NaN",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"\n\n\n",
    bytes(1000),
    b"\xff" * 1000,
)
"""The beginnings of files of other kinds, and what is hardly a file at all."""


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_early(content: bytes, rng: random.Random) -> bytes:
    """In the first bytes, where sizes and kinds are declared."""
    changed = bytearray(content)
    changed[rng.randrange(min(64, len(changed)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.choice((1, 7, 8, 9, len(content) // 2, len(content) - 1, rng.randrange(len(content))))]


def empty(content: bytes, rng: random.Random) -> bytes:
    return b""


def zero(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + bytes(end - begin) + content[end:]


def swap(content: bytes, rng: random.Random) -> bytes:
    """Two spans change places."""
    a, b, c, d = sorted(rng.randrange(len(content) + 1) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def lose(content: bytes, rng: random.Random) -> bytes:
    """A span is gone."""
    begin = rng.randrange(len(content))
    return content[:begin] + content[begin + rng.randint(1, 64) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A span is there twice."""
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[begin:]


def append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((b"\x00", b"x", b"{}\n", rng.randbytes(50)))


def other(content: bytes, rng: random.Random) -> bytes:
    """The file of another kind in its place, or before the rest of it."""
    beginning = rng.choice(OTHERS)
    return beginning + (content[len(beginning) :] if rng.random() < 0.5 else b"")


def declare(content: bytes, rng: random.Random) -> bytes:
    """A huge size is declared where one may stand."""
    changed, width = bytearray(content), rng.choice((2, 4, 8))
    at = rng.choice((0, 4, 8, rng.randrange(len(content))))
    size = rng.choice(
        (b"\xff" * 8, b"\xff" * 7 + b"\x7f", (1 << 40).to_bytes(8, "little"), (1 << 31).to_bytes(8, "big"))
    )
    changed[at : at + width] = size[:width]
    return bytes(changed)


def digits(content: bytes, rng: random.Random) -> bytes:
    """A number in a text becomes another one, some of them huge."""
    places = [k for k, byte in enumerate(content) if 48 <= byte < 58]
    if not places:
        return flip(content, rng)
    at = rng.choice(places)
    number = rng.choice((b"0", b"9", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b"1.5", b"NaN"))
    return content[:at] + number + content[at + 1 :]


DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip,
    flip,
    flip_early,
    truncate,
    empty,
    zero,
    swap,
    lose,
    repeat,
    append,
    other,
    declare,
    digits,
)

STRANGE = (None, True, -1, 0, 1.5, 10**30, "", "x", "../../etc", [], {}, [[]], {"a": {}}, "DEEP", "WIDE")


def places_in(value: Any, place: tuple = ()) -> list[tuple]:
    """The places of all fields and items in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for name, each in items:
        found += [(*place, name), *places_in(each, (*place, name))]
    return found


def deep(text: str, rng: random.Random) -> str:
    """With the marks replaced by what Python's own writer cannot write."""
    depth = rng.choice((70, 1000, 100_000))
    return text.replace('"DEEP"', rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))).replace(
        '"WIDE"', "[" + "0," * 10_000 + "0]"
    )


def edit(value: Any, rng: random.Random) -> str:
    """A JSON value with one field deleted, renamed, doubled, altered or of another kind, as text."""
    value = json.loads(json.dumps(value))
    places = places_in(value)
    if not places or rng.random() < 0.05:
        return deep(json.dumps(rng.choice(STRANGE)), rng)
    *path, last = rng.choice(places)
    part = value
    for name in path:
        part = part[name]
    what = rng.randrange(5)
    if what == 0:
        del part[last]
    elif what == 1 and isinstance(part, dict):
        part[last + rng.choice((" ", "_", "x"))] = part.pop(last)
    elif what == 2 and isinstance(part, dict):
        part["DOUBLE"] = rng.choice((part[last], rng.choice(STRANGE)))
        return deep(json.dumps(value), rng).replace('"DOUBLE"', json.dumps(last))
    elif what == 3 and isinstance(part[last], (int, float)) and not isinstance(part[last], bool):
        part[last] += rng.choice((1, -1, 0.5))
    else:
        part[last] = rng.choice(STRANGE)
    return deep(json.dumps(value, indent=rng.choice((None, 1))), rng)


def edit_json(content: bytes, rng: random.Random) -> bytes:
    return edit(json.loads(content), rng).encode()


def edit_line(content: bytes, rng: random.Random) -> bytes:
    """One line of many is edited, lost, doubled, or put elsewhere."""
    lines = content.decode().splitlines(keepends=True)
    at, what = rng.randrange(len(lines)), rng.randrange(4)
    if what == 0:
        lines[at] = edit(json.loads(lines[at]), rng).replace("\n", " ") + "\n"
    elif what == 1:
        del lines[at]
    elif what == 2:
        lines.insert(at, lines[at])
    else:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    return "".join(lines).encode()


def edit_header(content: bytes, rng: random.Random) -> bytes:
    """The JSON header of a safetensors file is edited, in its own words or in those of its notes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    notes = header.get("__metadata__", {})
    if "about" in notes and rng.random() < 0.5:
        notes["about"] = edit(json.loads(notes["about"]), rng)
        text = json.dumps(header, separators=(",", ":")).encode()
    else:
        text = edit(header, rng).encode()
    return len(text).to_bytes(8, "little") + text + content[end:]
