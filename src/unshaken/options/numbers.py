"""Numbers as people write them: 8/255 is what is meant by ε"""

from __future__ import annotations

import re
from fractions import Fraction

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


def number(text: str) -> float:
    over, slash, under = text.partition("/")
    try:
        return float(over) / float(under) if slash else float(over)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is neither a number nor a fraction such as 8/255") from None


def whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def spelled(value: float) -> str:
    """8/255 where that is how it was meant."""
    ratio = Fraction(value).limit_denominator(255)
    return str(ratio) if len(repr(value)) > 8 and float(ratio) == value else repr(value)


def rules() -> ConstructorRegistry:
    """For tyro: floats may be written as fractions."""
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
            str_from_instance=lambda value: [spelled(value)],
        )

    return registry
