"""Shapes of JSON values, and one-line errors that name the field with another shape."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    least: int | None = None
    most: int | None = None

    def __str__(self) -> str:
        return f"a whole number{_bounds(self.least, self.most)}"


@dataclass(frozen=True)
class Number:
    """A finite number within bounds."""

    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f"a finite number{_bounds(self.least, self.most)}"


@dataclass(frozen=True)
class Items:
    """A list whose items have one shape."""

    of: Shape
    least: int = 0
    most: int | None = None

    def __str__(self) -> str:
        if self.least == 0 and self.most is None:
            return "a list"
        return f"a list whose length is{_bounds(self.least, self.most).replace(' of ', ' ')}"


@dataclass(frozen=True)
class Each:
    """An object with any field names, whose values all have one shape."""

    of: Shape

    def __str__(self) -> str:
        return "an object"


@dataclass(frozen=True)
class Or:
    """One of several shapes. The value is checked against the first shape of its own JSON type."""

    shapes: tuple[Shape, ...]

    def __str__(self) -> str:
        return " or ".join(map(describe_shape, self.shapes))


Shape = Any
"""One of the classes above; or str, bool, None, or object, which allows anything;
or a dictionary from names to shapes: an object with at least these fields, of which "name?" may be missing;
or a tuple of strings: the value is one of them."""


def _bounds(least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}"
    return "" if least is most else f" of at least {least:g}" if most is None else f" of at most {most:g}"


def describe_shape(shape: Shape) -> str:
    """Describe a shape in words."""
    if isinstance(shape, dict):
        return "an object"
    if isinstance(shape, tuple):
        return f"one of {', '.join(shape)}"
    words = ((str, "text"), (bool, "true or false"), (None, "null"), (object, "a value"))
    return next((word for kind, word in words if shape is kind), None) or str(shape)


def check_shape(value: Any, shape: Shape, where: str, field: str = "") -> Any:
    """Return the value if it has the shape. ValueError, with the file (`where`) and the field, if it has not."""
    if isinstance(shape, Or):
        shape = next((each for each in shape.shapes if _has_shape(value, each, type_only=True)), shape)
    if not _has_shape(value, shape):
        what = f"{where}: {field!r}" if field else f"{where}: its content"
        raise ValueError(f"{what} is {shown(value)}, but must be {describe_shape(shape)}")
    if isinstance(shape, dict):
        for name, each in shape.items():
            bare = name.removesuffix("?")
            if bare in value:
                check_shape(value[bare], each, where, f"{field}.{bare}".lstrip("."))
            elif bare == name:
                raise ValueError(f"{where}: it has no {f'{field}.{bare}'.lstrip('.')!r}")
    elif isinstance(shape, Each):
        for name, each in value.items():
            check_shape(each, shape.of, where, f"{field}.{name}".lstrip("."))
    elif isinstance(shape, Items):
        for k, each in enumerate(value):
            check_shape(each, shape.of, where, f"{field}[{k}]")
    return value


def _has_shape(value: Any, shape: Shape, type_only: bool = False) -> bool:
    """Return whether a value has a shape, without looking at the fields or items of the value.

    type_only  compare the JSON types alone, not bounds and lengths
    """
    if shape is object or shape is None:
        return shape is object or value is None
    if isinstance(shape, (dict, Each)):
        return isinstance(value, dict)
    if isinstance(shape, Items):
        return isinstance(value, list) and (type_only or _within(len(value), shape.least, shape.most))
    if isinstance(shape, tuple):
        return isinstance(value, str) and (type_only or value in shape)
    if isinstance(shape, Whole):
        return type(value) is int and (type_only or _within(value, shape.least, shape.most))
    if isinstance(shape, Number):
        if type(value) not in (int, float):
            return False
        return type_only or (_finite(value) and _within(value, shape.least, shape.most))
    return isinstance(shape, type) and isinstance(value, shape)


def _finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def shown(value: Any) -> str:
    """Describe any value in a few words, on one line."""
    if isinstance(value, (dict, list)):
        kind, unit = ("an object", "fields") if isinstance(value, dict) else ("a list", "items")
        return f"{kind} of {len(value)} {unit}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "...")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a whole number of more than 64 bits" if isinstance(value, int) and abs(value) >= 1 << 64 else str(value)
