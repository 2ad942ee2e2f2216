"""The check of each typed word against the type and the range of its field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from unshaken.base.ranges import Range
from unshaken.base.suggest import did_you_mean
from unshaken.options.fields import Option, negated
from unshaken.options.numbers import number, whole_number


def check_words(option: Option, words: list[str]) -> None:
    """Raise ValueError, with the option's flag, if its field does not take these words."""
    if option.is_switch:
        if words:
            raise ValueError(
                f"{option.flag} is written without a value ({option.flag}, or {negated(option.flag)}), not {words[0]!r}"
            )
        return
    inner = optional_inner(option.hint)
    if get_origin(option.hint) is tuple:
        _check_tuple(option.flag, option.hint, words)
        return
    if get_origin(inner) is tuple:
        if words != ["None"]:
            _check_tuple(option.flag, inner, words)
        return
    if len(words) != 1:
        given = f"{len(words)}: {' '.join(words)}" if words else "none"
        raise ValueError(f"{option.flag} takes one value, not {given}")
    _check_one(option.flag, option.hint, words[0])


def optional_inner(hint: Any) -> Any:
    """X for the type `X | None`, and None for any other type."""
    if get_origin(hint) not in (Union, UnionType):
        return None
    others = [each for each in get_args(hint) if each is not NoneType]
    return others[0] if len(others) == 1 else None


def is_list(hint: Any) -> bool:
    """The field takes several values, and none of them is a path, which may have a comma."""
    kind = hint if get_origin(hint) is tuple else optional_inner(hint)
    return get_origin(kind) is tuple and Path not in get_args(kind)


def _check_tuple(flag: str, hint: Any, words: list[str]) -> None:
    inner = get_args(hint)
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(words)
    if len(words) != len(inner):
        raise ValueError(f"{flag} takes {len(inner)} values, not {len(words)}")
    for each, word in zip(inner, words, strict=True):
        _check_one(flag, each, word)


def _check_one(flag: str, hint: Any, word: str) -> None:
    inner = optional_inner(hint)
    if inner is not None:
        if word != "None":
            _check_one(flag, inner, word) if inner is Path or inner is str else _check_or_none(flag, inner, word)
        return
    if get_origin(hint) is Literal:
        _check_choice(flag, [str(each) for each in get_args(hint)], word)
    elif (reader := _reader(hint)) is not None:
        _check_number(flag, word, *reader)


def _check_or_none(flag: str, hint: Any, word: str) -> None:
    try:
        _check_one(flag, hint, word)
    except ValueError as error:
        raise ValueError(f"{error} (or None)") from None


def _check_choice(flag: str, choices: list[str], word: str) -> None:
    if word not in choices:
        raise ValueError(f"{flag} is one of {', '.join(choices)}, not {word!r}{did_you_mean(word.lower(), choices)}")


def _reader(hint: Any) -> tuple[Callable[[str], float], str, Range] | None:
    """The function that reads a number of this type, what the number is called, and its range; None for other types."""
    inner, limits = get_args(hint) if get_origin(hint) is Annotated else (hint, Range())
    if inner is int:
        return whole_number, "a whole number", limits
    if inner is float:
        return number, "a number" if str(limits) else "a finite number", limits
    return None


def _check_number(flag: str, word: str, read: Callable[[str], float], kind: str, limits: Range) -> None:
    try:
        value = read(word)
    except ValueError as error:
        wanted = f"{flag} is {kind}{limits}"
        raise ValueError(f"{wanted}, and {error}" if read is number else f"{wanted}, not {word!r}") from None
    if value not in limits:
        raise ValueError(f"{flag} is {kind}{limits}, not {word}")
