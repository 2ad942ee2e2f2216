"""A recipe in a file of one's own is run by its name; its classes' code is part of the run's name."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import unshaken
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.serialize import short_hash
from unshaken.base.types import Batch
from unshaken.methods.base import Step
from unshaken.methods.simclr import SimCLR
from unshaken.recipes.own_recipes import own_recipe

SOURCE = """
from dataclasses import dataclass, replace
import unshaken
from unshaken.methods.base import Method

@dataclass(frozen=True)
class Mine(Method):
    tau: float = 0.5
    routes = ("shared",)
    views = 2

    def loss(self, h, batch, clock, key):
        z = h(batch.views, "shared")
        return {"loss": (z[0] - z[1]).square().mean() / self.tau}

value = replace(unshaken.recipe("simclr/digits"), method=Mine(), name="mine", epochs=3)

def recipe(epochs=3):
    return replace(value, epochs=epochs)

def needs(what):
    return value

unnamed = replace(value, name="simclr")
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def test_a_value_and_a_function_are_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert own_recipe("mine.py:value") == own_recipe("mine.py:recipe")
    assert own_recipe("mine.py:value").method.tau == 0.5
    assert not capsys.readouterr().err
    own_recipe("mine.py:unnamed")
    assert "calls itself 'simclr', as a recipe of the papers: name='...'" in capsys.readouterr().err
    for name, words in {
        "mine.py:recip": "has no 'recip'; did you mean recipe",
        "mine.py:needs": "needs what, and a recipe's function is called without arguments",
        "mine.py:SOURCE": "has no 'SOURCE'",
        "other.py:recipe": r"there is no file other\.py",
        "mine.py:Mine": "is a Mine, and not a recipe",
    }.items():
        with pytest.raises(ValueError, match=words):
            own_recipe(name)


def test_an_edited_method_is_another_run(tmp_path: Path) -> None:
    (tmp_path / "edited.py").write_text(SOURCE.replace("z[0] - z[1]", "z[0] + z[1]"))
    (tmp_path / "same.py").write_text(SOURCE.replace("value =", "# a comment\nvalue ="))
    first, edited, same = (short_hash(own_recipe(f"{name}.py:value")) for name in ("mine", "edited", "same"))
    assert first == same != edited


def test_the_command_takes_it_with_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def pretrain(recipe: object, workspace: object) -> Path:
        given.append(recipe)
        raise ValueError("reached")

    command = import_module("unshaken.commands.pretrain")
    monkeypatch.setattr(import_module("unshaken.runs.pretrain"), "pretrain", pretrain)
    for words in (["--recipe", "mine.py:recipe"], ["mine.py:recipe"]):
        with pytest.raises(ValueError, match="reached"):
            command.pretrain([*words, "--epochs", "7", "--method.tau", "0.2"])
    assert given[0] == given[1]
    assert (given[0].epochs, given[0].method.tau) == (7, 0.2)


def test_what_does_not_fit_is_named_in_one_line() -> None:
    recipe = unshaken.recipe("simclr/digits")
    with pytest.raises(ValueError, match="backbone is a Backbone, not a Identity: Backbone.of"):
        replace(recipe, backbone=nn.Identity())

    class Bare(SimCLR):
        def loss(self, h, batch, clock, key):
            return h(batch.views, "clean").mean()

    x = torch.rand(2, 3, 1, 8, 8)
    batch = Batch(x, x[0], None, torch.arange(3))
    with pytest.raises(ValueError, match='Bare.loss returns a dictionary of scalars with the key "loss", not a Tensor'):
        Step(Bare(), recipe.build_network())(batch, Clock(0, 0, 0.5, 2), Key(0))
