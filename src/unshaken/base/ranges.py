"""Allowed ranges of numeric dataclass fields, checked when an instance is created."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from math import inf, isfinite
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from unshaken.base.python_words import in_python

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers, [low, high]; an open bound is excluded."""

    low: float = -inf
    high: float = inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return isfinite(value) and above and below

    def __str__(self) -> str:
        """Return the words after "a number" in a message: "> 0", "in [0, 1)", or nothing if any finite number fits."""
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
"""From 0 to 1, with both bounds: a probability, for example."""
Share = Annotated[float, Range(0, 1, open_low=True)]
"""From 0 to 1, without 0: a fraction of something."""
BelowOne = Annotated[float, Range(0, 1, open_high=True)]
"""From 0 to 1, without 1: a momentum, for example."""
Inside = Annotated[float, Range(0, 1, open_low=True, open_high=True)]
Whole = Annotated[int, Range()]
"""Any whole number: a seed, for example."""
Natural = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Several = Annotated[int, Range(2)]
"""Two or more: a batch size, for example, because a single image has no variance."""


def ranged(kind: type[T]) -> type[T]:
    """Decorate a dataclass so that every new instance checks its fields against their annotated ranges.

        @dataclass(frozen=True)
        @ranged
        class SGD(Optimizer):
            momentum: BelowOne = 0.9

    Write it below @dataclass. The class's own __post_init__ runs after the check.
    """
    own = getattr(kind, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        check_ranges(self)
        if own is not None:
            in_python(own)(self)

    kind.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]
    return kind


def check_ranges(value: Any) -> None:
    """Raise a ValueError that names the field if a field's value is outside its range."""
    for name, check in checks(type(value)):
        check(name, getattr(value, name))


@cache
def checks(kind: type) -> tuple[tuple[str, Callable[[str, Any], None]], ...]:
    """Return the names of a dataclass's numeric fields, each with the function that checks its values."""
    hints = get_type_hints(kind, include_extras=True)
    found = ((f.name, checker(hints[f.name])) for f in fields(kind))
    return tuple((name, check) for name, check in found if check is not None)


def checker(hint: Any) -> Callable[[str, Any], None] | None:
    """Return the function that checks values of an annotated type; None if the type has no range.

    The type is a number, a number or None, or a tuple of numbers.
    """
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
        raise ValueError(f"{name} is a tuple of numbers, not {values!r}")
    for value in values:
        inner(f"each of {name}", value)
