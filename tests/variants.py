"""Variants of a test of which a few stand for all: the others have the mark `extra`, and run in `make test-all`.

Hundreds of quick cases are one test that runs them all (`for_each`).
"""

from collections.abc import Callable, Iterable
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


def for_each(values: Iterable[Any], name: Callable[[Any], str] = str) -> Callable[[Callable[[Any], None]], Callable]:
    """Make one test that runs the decorated one for every value, and tells all failures together.

    A test of its own for each of hundreds of values takes longer to be made and reported than to run.
    """
    values = list(values)
    assert values, "there is nothing to test"

    def around(test: Callable[[Any], None]) -> Callable[[], None]:
        def of_all() -> None:
            failures = []
            for value in values:
                try:
                    test(value)
                except (AssertionError, pytest.fail.Exception) as error:
                    failures.append(f"{name(value)}: {error}")
            assert not failures, "\n".join(failures)

        of_all.__name__, of_all.__doc__ = test.__name__, test.__doc__
        return of_all

    return around
