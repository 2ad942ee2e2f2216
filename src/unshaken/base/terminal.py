"""Safe terminal output: control characters are escaped, and no encoding fails."""

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
"""Control characters that are not escaped."""


def printable(text: str) -> str:
    """Escape characters that control a terminal or reverse the reading direction: they are written as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c in PLAIN or not _controls(c) else c.encode("unicode_escape").decode() for c in text)


def _controls(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co")


class Guarded:
    """A text stream that escapes with `printable` what is written. `raw` is the underlying stream."""

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
    """Return the underlying stream, for trusted text with control characters; untrusted text in it must be escaped."""
    return stream.raw if isinstance(stream, Guarded) else stream


@contextmanager
def guarded() -> Iterator[None]:
    """Make stdout and stderr escape control characters while the block runs.

    A character that the encoding lacks (ε in latin-1) is written as its code, so that printing never fails.
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


class OnlyErrors:
    """A text stream that drops all lines but errors, which begin with `unshaken: `. It is no terminal."""

    def __init__(self, to: TextIO) -> None:
        self.to, self.line = to, ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if line.startswith("unshaken: "):
                self.to.write(f"{line}\n")
        return len(text)

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        self.to.flush()


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing on stderr but errors while the block runs: no progress and no notes."""
    before = sys.stderr
    sys.stderr = OnlyErrors(before)
    try:
        yield
    finally:
        sys.stderr = before


@contextmanager
def only_errors() -> Iterator[None]:
    """Print nothing but errors while the block runs: no results, no progress and no notes."""
    before = sys.stdout
    with quiet():
        sys.stdout = io.StringIO()
        try:
            yield
        finally:
            sys.stdout = before


def console(stderr: bool = False) -> Console:
    """Return Rich's console on stdout or stderr, for tables and bars; escape text for it with `printable`."""
    from rich.console import Console

    return Console(file=raw(sys.stderr if stderr else sys.stdout))
