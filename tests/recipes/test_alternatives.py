"""Every kind that can be in a recipe is in the table of alternatives, and every one of them can be typed."""

from abc import ABC
from dataclasses import fields, is_dataclass
from inspect import isabstract
from typing import get_type_hints

import pytest

import unshaken
from components import below, final
from unshaken.commands.pretrain import Pretraining
from unshaken.methods.method import Method
from unshaken.options import parse
from unshaken.recipes.alternatives import ALTERNATIVES, alternatives
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.papers import PAPERS
from unshaken.recipes.plusplus import PlusPlus
from unshaken.recipes.pretrain import Pretrain

MADE_BY_A_RECIPE = (Method,)
"""Of these a recipe has one for good: it is what the recipe is of."""


def held(kind: type, seen: set[type]) -> set[type]:
    """The abstract kinds that the fields of a recipe hold, at any depth."""
    if kind in seen or not isinstance(kind, type):
        return set()
    seen.add(kind)
    if isabstract(kind) or ABC in kind.__bases__:
        return {kind}.union(*(held(inner, seen) for inner in final(kind)))
    if not is_dataclass(kind):
        return set()
    hints = get_type_hints(kind)
    inner = [each for f in fields(kind) for each in (hints[f.name], *getattr(hints[f.name], "__args__", ()))]
    return set().union(*(held(each, seen) for each in inner))


HELD = held(Pretrain, seen := set()) | held(PlusPlus, seen) | held(Finetune, seen)
ABSTRACT = sorted((kind for kind in HELD if ABC in kind.__bases__), key=str)


def test_recipes_hold_these():
    assert {kind.__name__ for kind in ABSTRACT} >= {"Schedule", "Selector", "Optimizer", "Head", "Views", "Ball"}


@pytest.mark.parametrize("base", [kind for kind in ABSTRACT if kind not in MADE_BY_A_RECIPE], ids=lambda k: k.__name__)
def test_no_kind_is_missing(base):
    kinds = {kind for kind in final(base) if not isabstract(kind)}
    rows = [set(row) for row in ALTERNATIVES if set(row) & kinds]
    assert rows == [kinds], "a kind in no row, or in two"


def test_no_row_mixes_what_has_nothing_in_common():
    for row in ALTERNATIVES:
        assert all(alternatives(kind) == row for kind in row)
        assert any(set(row) <= set(below(base)) for base in (*ABSTRACT, Method))


SELECTORS = next(row for row in ALTERNATIVES if any(kind.__name__ == "RCS" for kind in row))
ON_CORESETS = [name for name in PAPERS if name.endswith("-rcs")]


@pytest.mark.parametrize("kind", SELECTORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ON_CORESETS)
def test_every_selector_can_be_typed(name, kind):
    default = Pretraining(unshaken.recipe(f"{name}/digits"))
    assert parse(default, ["--coreset", kind.__name__], "test").recipe.coreset == kind()


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "LARS"])
def test_every_optimiser_can_be_typed(kind):
    chosen = parse(Pretraining(unshaken.recipe("acl/digits")), ["--optimizer", kind], "test").recipe.optimizer
    assert type(chosen).__name__ == kind
