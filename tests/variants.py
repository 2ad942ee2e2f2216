"""Variants of a test of which a few stand for all: the others have the mark `extra`, and run in `make test-all`."""

from collections.abc import Iterable
from typing import Any

import pytest


def variants(values: Iterable[Any], main: Iterable[Any]) -> list[Any]:
    """Return the parameters of a test; those that are not in `main` are marked. AssertionError if one there is none."""
    values, main = list(values), list(main)
    assert all(value in values for value in main), f"{main} has a value that is not in {values}"
    return [value if value in main else marked(value) for value in values]


def marked(value: Any) -> Any:
    several = isinstance(value, tuple)
    return pytest.param(*value, marks=pytest.mark.extra) if several else pytest.param(value, marks=pytest.mark.extra)
