"""What somebody may have meant: the known name that is most like a mistyped one"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

ASIDE = " (did you mean {!r}?)"
"""The form of a question in the middle of a sentence."""


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like a word, if one is alike enough (cutoff from 0, any, to 1, the same)."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, known: Iterable[str], form: str = "; did you mean {}?", cutoff: float = 0.6) -> str:
    """The question that ends a message, with the closest name in the form's braces; empty if none is close."""
    near = closest(word, known, cutoff)
    return form.format(near) if near else ""
