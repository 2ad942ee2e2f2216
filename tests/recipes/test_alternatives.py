"""Every kind that can be in a recipe is in the union of its alternatives, and every one of them can be typed."""

import re
from abc import ABC
from dataclasses import dataclass, fields, is_dataclass, replace
from inspect import isabstract
from pathlib import Path
from types import UnionType
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import torch

import unshaken
from components import final, modules
from unshaken.attacks.pgd import PGD
from unshaken.commands.pretrain import PretrainOptions
from unshaken.coreset.selectors import AnySelector
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method
from unshaken.options import parse
from unshaken.options.aliases import suggestion
from unshaken.options.fields import alternatives, hints
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.lp_aff import LPAFF, Stage
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.approximations import Approximations
from unshaken.train.optim import AnyOptimizer, Optimizer, TorchOptimizer
from variants import variants

ROOT = Path(__file__).parents[2]
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


HELD = held(Pretrain, seen := set()) | held(LPAFF, seen) | held(Finetune, seen)
ABSTRACT = sorted((kind for kind in HELD if ABC in kind.__bases__), key=str)


def test_recipes_hold_these():
    assert {kind.__name__ for kind in ABSTRACT} >= {"Schedule", "Selector", "Optimizer", "Head", "Views", "Ball"}


def unions() -> dict[str, object]:
    """AnyOptimizer and its like, by name: each is annotated with a union of kinds."""
    found = {}
    for module in modules():
        for name, value in vars(module).items():
            if get_origin(value) is Annotated and isinstance(value.__metadata__[0], UnionType):
                found[name] = value
    return found


def test_these_have_unions():
    assert set(unions()) >= {"AnySchedule", "AnySelector", "AnyOptimizer", "AnyHead", "AnyViews", "AnyBall"}


@pytest.mark.parametrize("name", unions())
def test_no_kind_is_missing_and_none_is_of_another_base(name):
    union = unions()[name]
    base, kinds = get_args(union)[0], alternatives(union)
    assert isabstract(base)
    assert len(set(kinds)) == len(kinds)
    assert all(issubclass(kind, base) and is_dataclass(kind) for kind in kinds)
    if base not in MADE_BY_A_RECIPE:
        assert set(kinds) == set(final(base))


@pytest.mark.parametrize("kind", [Pretrain, LPAFF, Stage, Finetune, PGD, ACL, Approximations], ids=lambda k: k.__name__)
def test_fields_are_annotated_with_the_unions(kind):
    """A field that is annotated with the abstract kind alone would have no alternatives on a command line."""
    bases = {get_args(union)[0] for union in unions().values()} - set(MADE_BY_A_RECIPE)
    assert not [
        name for name, hint in hints(kind).items() if bases & {hint, *get_args(hint)} and not alternatives(hint)
    ]


def test_one_of_your_own_goes_from_python():
    @dataclass(frozen=True)
    class Mine(Optimizer):
        def build(self, net):
            return torch.optim.Adagrad(net.parameters())

    recipe = replace(unshaken.recipe("acl/digits"), optimizer=Mine())
    kept = parse(PretrainOptions(recipe), ["--epochs", "3"], "test").recipe
    assert kept.optimizer == Mine()
    assert isinstance(kept.optimizer.build(kept.build_network()), torch.optim.Adagrad)
    assert parse(PretrainOptions(recipe), ["--optimizer", "SGD"], "test").recipe.optimizer != Mine()


def test_help_names_all_kinds(capsys):
    with pytest.raises(SystemExit):
        parse(PretrainOptions(unshaken.recipe("acl-rcs/digits")), ["--help"], "test")
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("AnyBall", "AnySchedule", "AnyHead", "AnyViews", "AnyOptimizer", "AnySelector"):
        assert " | ".join(kind.__name__ for kind in alternatives(unions()[name])) in shown


SELECTORS = alternatives(AnySelector)


@pytest.mark.parametrize("page", ["README.md", "docs/methods/rcs.md"])
def test_the_pages_name_every_selector(page):
    line = next(line for line in (ROOT / page).read_text().splitlines() if "--coreset Random" in line)
    named = set(re.findall(r"\b[A-Z]\w+", line.partition("--coreset")[2])) & {kind.__name__ for kind in SELECTORS}
    assert named >= {kind.__name__ for kind in SELECTORS} - {"RCS", "All"}


def test_a_hint_names_every_optimiser():
    named = re.findall(r"[A-Z]{2}\w*|Adam\w+", suggestion("--opt", ["--optimizer"]))
    assert named == [kind.__name__ for kind in alternatives(AnyOptimizer) if kind is not TorchOptimizer]


ON_CORESETS = [name for name in RECIPES if name.endswith("-rcs")]


@pytest.mark.parametrize("kind", SELECTORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", variants(ON_CORESETS, ON_CORESETS[:1]))
def test_every_selector_can_be_typed(name, kind):
    default = PretrainOptions(unshaken.recipe(f"{name}/digits"))
    assert parse(default, ["--coreset", kind.__name__], "test").recipe.coreset == kind()


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "LARS"])
def test_every_optimiser_can_be_typed(kind):
    chosen = parse(PretrainOptions(unshaken.recipe("acl/digits")), ["--optimizer", kind], "test").recipe.optimizer
    assert type(chosen).__name__ == kind


def test_any_optimiser_of_torch_can_be_typed():
    default = PretrainOptions(unshaken.recipe("acl/digits"))
    words = ["--optimizer", "torch.optim.NAdam", "--optimizer.args", "betas=(0.9, 0.95), weight_decay=0.01"]
    chosen = parse(default, words, "test").recipe.optimizer
    assert chosen == TorchOptimizer("NAdam", "betas=(0.9, 0.95), weight_decay=0.01")
    mistakes = {
        "torch.optim has no optimizer 'NAdm' .*did you mean NAdam": ["--optimizer", "torch.optim.NAdm"],
        "has no argument 'beta'; it has betas": [*words[:3], "beta=1"],
        "the learning rate is --lr": [*words[:3], "lr=1"],
        "arguments are written": [*words[:3], "0.9"],
    }
    for said, wrong in mistakes.items():
        with pytest.raises(ValueError, match=said):
            parse(default, wrong, "test")
