"""Ranges: which numbers a field of a component takes; a number outside is refused when the component is made"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from math import inf, isfinite
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers, [low, high]; a bound that is open does not belong to it."""

    low: float = -inf
    high: float = inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return isfinite(value) and above and below

    def __str__(self) -> str:
        """What follows the word "number": "> 0", "in [0, 1)", or nothing where any finite number will do."""
        if self.low == -inf and self.high == inf:
            return ""
        if self.high == inf:
            return f" {'>' if self.open_low else '≥'} {self.low:g}"
        if self.low == -inf:
            return f" {'<' if self.open_high else '≤'} {self.high:g}"
        return f" in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


Number = Annotated[float, Range()]
"""Any finite number."""
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Unit = Annotated[float, Range(0, 1)]
"""From 0 to 1, both included: a probability, say."""
Share = Annotated[float, Range(0, 1, open_low=True)]
"""From 0 to 1, without 0: a part of something."""
BelowOne = Annotated[float, Range(0, 1, open_high=True)]
"""From 0 to 1, without 1: a momentum, say."""
Inside = Annotated[float, Range(0, 1, open_low=True, open_high=True)]
Whole = Annotated[int, Range()]
"""Any whole number: a seed, say."""
Natural = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Several = Annotated[int, Range(2)]
"""Two or more: a batch, say, for a single image has no variance."""


def ranged(kind: type[T]) -> type[T]:
    """Check the numbers of every new value of a dataclass against the ranges that its fields are annotated with.

        @dataclass(frozen=True)
        @ranged
        class SGD(Optimizer):
            momentum: BelowOne = 0.9

    It stands below @dataclass. What the class checks by itself, in __post_init__, comes after.
    """
    own = getattr(kind, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        check_ranges(self)
        if own is not None:
            own(self)

    kind.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]
    return kind


def check_ranges(value: Any) -> None:
    """ValueError if a field of a dataclass holds what its range does not; the message names the field."""
    for name, check in checks(type(value)):
        check(name, getattr(value, name))


@cache
def checks(kind: type) -> tuple[tuple[str, Callable[[str, Any], None]], ...]:
    """The names of a dataclass's numeric fields, each with what checks its values."""
    hints = get_type_hints(kind, include_extras=True)
    found = ((f.name, checker(hints[f.name])) for f in fields(kind))
    return tuple((name, check) for name, check in found if check is not None)


def checker(hint: Any) -> Callable[[str, Any], None] | None:
    """What checks a value of an annotated type: a number, one or None, or a tuple of them; None for other types."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = next((each for each in arguments[1:] if isinstance(each, Range)), None)
        if limits is None:
            return checker(arguments[0])
        return _one(arguments[0], limits)
    if origin in (Union, UnionType):
        inner = next((check for check in map(checker, arguments) if check is not None), None)
        return None if inner is None else lambda name, value: None if value is None else inner(name, value)
    if origin is tuple:
        inner = checker(arguments[0]) if arguments else None
        return None if inner is None else lambda name, values: _each(inner, name, values)
    return None


def _one(kind: type, limits: Range) -> Callable[[str, Any], None]:
    number, wanted = (Integral, "a whole number") if kind is int else (Real, "a number")
    wanted = "a finite number" if kind is float and str(limits) == "" else wanted

    def check(name: str, value: Any) -> None:
        if not isinstance(value, number) or isinstance(value, bool) or value not in limits:  # pyright: ignore[reportOperatorIssue]
            given = f"{value:g}" if isinstance(value, float) else repr(value)
            raise ValueError(f"{name} is {wanted}{limits}, not {given}")

    return check


def _each(inner: Callable[[str, Any], None], name: str, values: Any) -> None:
    if not isinstance(values, (tuple, list)):
        raise ValueError(f"{name} is several numbers, not {values!r}")
    for value in values:
        inner(f"each of {name}", value)
