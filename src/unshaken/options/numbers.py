"""Numbers as people type them: a float may be a fraction such as 8/255."""

from __future__ import annotations

import re
from fractions import Fraction

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


def number(text: str) -> float:
    """Read a float or a fraction. Raises ValueError for anything else."""
    over, slash, under = text.partition("/")
    try:
        return float(over) / float(under) if slash else float(over)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is neither a number nor a fraction such as 8/255") from None


def whole_number(text: str) -> int:
    """Read an integer. Raises ValueError for anything else, 1.0 and 1e3 included."""
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def number_text(value: float) -> str:
    """Write a float as a fraction if it is one with a denominator up to 255: 8/255."""
    ratio = Fraction(value).limit_denominator(255)
    return str(ratio) if len(repr(value)) > 8 and float(ratio) == value else repr(value)


def tyro_rules() -> ConstructorRegistry:
    """The rule by which tyro reads floats with `number`."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def fraction(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type is not float:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT",
            instance_from_str=lambda args: number(args[0]),
            is_instance=lambda value: isinstance(value, (int, float)),
            str_from_instance=lambda value: [number_text(value)],
        )

    return registry
