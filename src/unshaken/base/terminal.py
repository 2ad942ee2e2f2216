"""Terminal: output that no foreign text can command, and that any encoding can hold"""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PLAIN = "\n\t"
"""Control characters that text may hold."""


def printable(text: str) -> str:
    """The text with every character that commands a terminal, or turns the direction of reading, written as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c in PLAIN or not _commands(c) else c.encode("unicode_escape").decode() for c in text)


def _commands(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")


class Guarded:
    """A stream that writes what `printable` makes of text. `raw` is the stream below, to command on purpose."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        self.raw.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw(stream: Any) -> Any:
    """The stream itself, without a guard: for text that commands a terminal on purpose, its foreign parts escaped."""
    return stream.raw if isinstance(stream, Guarded) else stream


@contextmanager
def guarded() -> Iterator[None]:
    """For as long as it lasts standard output and error escape what commands a terminal, and fail at no encoding.

    A character that the encoding lacks (ε in latin-1) is written by its number.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (stream if isinstance(stream, Guarded) else Guarded(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(stderr: bool = False) -> Console:
    """Rich's console on standard output or error, for tables and bars; what is shown there is to be `printable`."""
    from rich.console import Console

    return Console(file=raw(sys.stderr if stderr else sys.stdout))
