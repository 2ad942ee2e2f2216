"""Fields as options: which flags the fields of a value make, and which words each of them takes"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from unshaken.base.ranges import Range
from unshaken.base.suggest import did_you_mean
from unshaken.options.numbers import number, whole

FLAT = ("recipe", "evaluation")
"""Fields whose own fields are options without a prefix."""


@dataclass(frozen=True)
class Option:
    """One option: its flag, the type of its field, and whether its values need no flag before them."""

    flag: str
    hint: Any
    positional: bool = False

    @property
    def is_switch(self) -> bool:
        return self.hint is bool


def options_of(value: Any, prefix: str = "--") -> list[Option]:
    """Every option that the fields of a value make."""
    found = []
    for name, hint in hints(type(value)).items():
        field, flat = getattr(value, name), name in FLAT
        if "tyro.conf.Fixed" in repr(hint) or "Fixed" in str(type(value).__annotations__.get(name)):
            continue
        flag = prefix if flat else f"{prefix}{name.replace('_', '-')}"
        if is_dataclass(field):
            found += options_of(field, flag if flat else f"{flag}.")
            continue
        if field is None and alternatives(hint):
            continue  # a part that is left out has no options
        positional = "Positional" in str(type(value).__annotations__.get(name))
        found.append(Option(flag, bare(hint), positional))
    return found


def flags(value: Any) -> list[str]:
    """The flags of a value's options, with --no-NAME for those that are yes or no."""
    names = []
    for option in options_of(value):
        names.append(option.flag)
        if option.is_switch:
            names.append(denied(option.flag))
    return names


def denied(flag: str) -> str:
    """--data.download: --data.no-download."""
    path, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{path}{dot}no-{name}"


@cache
def hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with what they are annotated with."""
    known = get_type_hints(kind, include_extras=True)
    return {f.name: known[f.name] for f in fields(kind)}


def alternatives(hint: Any) -> list[type]:
    """The kinds that a field takes by name: SGD and LARS of `Annotated[Optimizer, SGD | LARS]`, HN of `HN | None`."""
    if get_origin(hint) is Annotated:
        return [kind for union in hint.__metadata__ if isinstance(union, UnionType) for kind in get_args(union)]
    return [kind for each in get_args(hint) for kind in alternatives(each) or [each] if is_dataclass(kind)]


def bare(hint: Any) -> Any:
    """A type without the annotations that are not about its numbers."""
    if get_origin(hint) is Annotated:
        inner, *others = get_args(hint)
        ranges = [each for each in others if isinstance(each, Range)]
        return Annotated[inner, ranges[0]] if ranges else bare(inner)
    return hint


def check_words(option: Option, words: list[str]) -> None:
    """ValueError, by the option's flag, if its field does not take these words."""
    if option.is_switch:
        if words:
            raise ValueError(
                f"{option.flag} is written without a value ({option.flag}, or {denied(option.flag)}), not {words[0]!r}"
            )
        return
    if get_origin(option.hint) is tuple or _one_of_union(option.hint) is not None and _many(option.hint):
        inner = option.hint if get_origin(option.hint) is tuple else _one_of_union(option.hint)
        _check_many(option.flag, inner, words, none=inner is not option.hint)
        return
    if len(words) != 1:
        given = f"{len(words)}: {' '.join(words)}" if words else "none"
        raise ValueError(f"{option.flag} takes one value, not {given}")
    _check_one(option.flag, option.hint, words[0])


def _many(hint: Any) -> bool:
    return get_origin(_one_of_union(hint)) is tuple


def _one_of_union(hint: Any) -> Any:
    """X of `X | None`; None if the type is no such union."""
    if get_origin(hint) not in (Union, UnionType):
        return None
    others = [each for each in get_args(hint) if each is not NoneType]
    return others[0] if len(others) == 1 else None


def _check_many(flag: str, hint: Any, words: list[str], none: bool) -> None:
    if none and words == ["None"]:
        return
    inner = get_args(hint)
    if len(inner) == 2 and inner[1] is Ellipsis:
        for word in words:
            _check_one(flag, inner[0], word)
        return
    if len(words) != len(inner):
        raise ValueError(f"{flag} takes {len(inner)} values, not {len(words)}")
    for each, word in zip(inner, words, strict=True):
        _check_one(flag, each, word)


def _check_one(flag: str, hint: Any, word: str) -> None:
    """A single word of an option."""
    inner = _one_of_union(hint)
    if inner is not None:
        if word != "None":
            _check_one(flag, inner, word) if inner is Path or inner is str else _or_none(flag, inner, word)
        return
    if get_origin(hint) is Literal:
        _check_choice(flag, [str(each) for each in get_args(hint)], word)
    elif (reader := _reader(hint)) is not None:
        _check_number(flag, hint, word, *reader)


def _or_none(flag: str, hint: Any, word: str) -> None:
    try:
        _check_one(flag, hint, word)
    except ValueError as error:
        raise ValueError(f"{error} (or None)") from None


def _check_choice(flag: str, choices: list[str], word: str) -> None:
    if word not in choices:
        raise ValueError(f"{flag} is one of {', '.join(choices)}, not {word!r}{did_you_mean(word.lower(), choices)}")


def _reader(hint: Any) -> tuple[Callable[[str], float], str, Range] | None:
    """What reads a number of a type, what it is called, and its range; None for other types."""
    inner, limits = get_args(hint) if get_origin(hint) is Annotated else (hint, Range())
    if inner is int:
        return whole, "a whole number", limits
    if inner is float:
        return number, "a number" if str(limits) else "a finite number", limits
    return None


def _check_number(flag: str, hint: Any, word: str, read: Callable[[str], float], what: str, limits: Range) -> None:
    try:
        value = read(word)
    except ValueError as error:
        wanted = f"{flag} is {what}{limits}"
        raise ValueError(f"{wanted}, and {error}" if read is number else f"{wanted}, not {word!r}") from None
    if value not in limits:
        raise ValueError(f"{flag} is {what}{limits}, not {word}")
