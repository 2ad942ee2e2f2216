"""canonical and short_hash: equal values, equal text; different classes, different text."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from unshaken.base.serialize import LATER, canonical, short_hash, to_json


@dataclass(frozen=True)
class Cat:
    size: float = 0.1
    path: Any = None


@dataclass(frozen=True)
class Dog:
    size: float = 0.1
    path: Any = None


def test_equal_values_have_equal_text():
    assert canonical(Cat(0.1, (1, 2))) == canonical(replace(Cat(), path=(1, 2)))
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})


@pytest.mark.parametrize("other", [Dog(), Cat(0.2), Cat(0.1, "None"), Cat(path=Cat()), Cat(path=Dog())])
def test_different_values_have_different_text(other):
    assert canonical(Cat()) != canonical(other)


def test_the_canonical_text():
    value = {"b": (1, Path("x/y")), "a": Dog(path=[True, "é"])}
    text = r'{"a":{"path":[true,"\u00e9"],"size":0.1,"type":"Dog"},"b":[1,"x/y"]}'
    assert canonical(value) == text


@pytest.mark.parametrize("number", [8 / 255, 1e-6, 0.1 + 0.2, 5.0, 2**53 + 1])
def test_numbers_are_read_back_exactly(number):
    assert json.loads(canonical(number)) == number


def test_a_class_has_no_canonical_text():
    assert to_json(Cat) is Cat
    with pytest.raises(TypeError):
        canonical(Cat)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Cat(float("nan"))])
def test_nan_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(value)


def test_the_hash_is_stable():
    # recorded: the first 4 bytes of blake2b of {"a":1,"b":[2.5,"x"]}
    assert short_hash({"b": (2.5, "x"), "a": 1}) == "bd465c70"
    assert short_hash(Cat()) != short_hash(Dog())


@dataclass(frozen=True)
class Kitten:
    size: float = 0.1
    toy: Any = field(default=Dog(), metadata=LATER)


def test_a_field_added_later_is_omitted_at_its_default():
    assert to_json(Kitten(toy=Dog(0.1))) == {"type": "Kitten", "size": 0.1}
    assert to_json(Kitten(toy=Dog(0.2)))["toy"]["size"] == 0.2
    assert canonical(Kitten()) != canonical(Kitten(toy=None))
