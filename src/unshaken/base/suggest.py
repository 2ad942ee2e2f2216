"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

ASIDE = " (did you mean {!r}?)"
"""The form of the question within a sentence."""


def closest(word: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the name most similar to a word, if the similarity is at least `cutoff` (0: any name, 1: equal names)."""
    return next(iter(get_close_matches(word, list(names), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, names: Iterable[str], form: str = "; did you mean {}?", cutoff: float = 0.6) -> str:
    """Return a question with the most similar name, to end an error message with; empty if no name is similar."""
    near = closest(word, names, cutoff)
    return form.format(near) if near else ""
