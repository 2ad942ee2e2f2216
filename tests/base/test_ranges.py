"""Every number of every component has a range, and what lies outside of it is refused by name."""

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from components import components
from unshaken.base.ranges import Count, Number, Positive, Range, Unit, checks, ranged
from variants import for_each

COMPONENTS = components()


def innermost(hint) -> list:
    """The numeric types in a hint, each with what it is annotated with: [(int, Range(...))]."""
    if get_origin(hint) is Annotated:
        inner, *others = get_args(hint)
        return (
            [(inner, next((o for o in others if isinstance(o, Range)), None))]
            if inner in (int, float)
            else innermost(inner)
        )
    if hint in (int, float):
        return [(hint, None)]
    if get_origin(hint) is dict or getattr(hint, "__module__", "") == "typing" and "Literal" in str(hint):
        return []
    return [found for each in get_args(hint) for found in innermost(each)]


NUMBERS = [
    (kind, field.name, number)
    for kind in COMPONENTS
    for field in fields(kind)
    for number in innermost(get_type_hints(kind, include_extras=True)[field.name])
]


def names(case) -> str:
    kind, name, _ = case
    return f"{kind.__name__}.{name}"


def test_more_than_110_fields_have_ranges():
    """So that a list that shrinks by mistake is seen."""
    assert len({(kind, name) for kind, name, _ in NUMBERS}) > 110


@for_each(NUMBERS, names)
def test_every_number_has_a_range(case):
    kind, name, (_, limits) = case
    assert limits is not None, f"annotate {kind.__name__}.{name} with a range, and put @ranged below @dataclass"
    assert name in dict(checks(kind))


def outside(number: type, limits: Range) -> list:
    wrong = [float("nan"), float("inf"), -float("inf"), "3", True]
    wrong += [limits.low if limits.open_low else limits.low - 1] if limits.low > -float("inf") else []
    wrong += [limits.high if limits.open_high else limits.high + 1] if limits.high < float("inf") else []
    return wrong + ([1.5] if number is int else [])


def made(kind: type, **changes):
    """A value of a component, with what it needs beside."""
    needed = {
        "ball": None,
        "lr": None,
        "method": None,
        "evaluation": None,
        "recipe": None,
        "data": None,
        "attack": None,
    }
    lacking = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING} - {*changes}
    plain = {name: needed.get(name, 1) for name in lacking}
    return kind(**plain | changes)


@for_each(NUMBERS, names)
def test_what_lies_outside_is_refused_by_name(case):
    kind, name, (number, limits) = case
    several = "tuple" in str(get_type_hints(kind, include_extras=True)[name]).partition("[")[0]
    optional = get_args(get_type_hints(kind, include_extras=True)[name])
    several = several or any("tuple" in str(each) for each in optional if not isinstance(each, Range))
    for value in outside(number, limits):
        with pytest.raises(ValueError, match=name) as refused:
            made(kind, **{name: (value, value) if several else value})
        assert "\n" not in str(refused.value)


@dataclass(frozen=True)
@ranged
class Some:
    part: Unit = 0.5
    size: Positive = 1.0
    count: Count = 1
    any: Number = 0.0
    several: tuple[Count, ...] = ()
    maybe: Count | None = None

    def __post_init__(self) -> None:
        if self.count == 7:
            raise ValueError("anything but seven")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"part": 1.5}, r"part is a number in \[0, 1\], not 1.5"),
        ({"size": 0}, "size is a number > 0, not 0"),
        ({"count": 0}, "count is a whole number ≥ 1, not 0"),
        ({"count": 7}, "anything but seven"),
        ({"any": float("nan")}, "any is a finite number, not nan"),
        ({"several": (1, 0)}, "each of several is a whole number ≥ 1, not 0"),
        ({"several": 3}, "several is a tuple of numbers, not 3"),
        ({"maybe": -1}, "maybe is a whole number ≥ 1, not -1"),
    ],
)
def test_the_message_names_field_and_range(changes, words):
    with pytest.raises(ValueError, match=words):
        Some(**changes)


def test_the_ends_of_a_range_belong_to_it_or_do_not():
    assert Some(part=0, maybe=3, several=[1, 2]).part == 0
    assert 0 in Range(0, 1)
    assert 0 not in Range(0, 1, open_low=True)
    assert 1 not in Range(0, 1, open_high=True)
    assert [str(r) for r in (Range(), Range(1), Range(high=1), Range(0, 1, True, True))] == [
        "",
        " ≥ 1",
        " ≤ 1",
        " in (0, 1)",
    ]
