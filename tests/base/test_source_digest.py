"""The digest of a user's class: it changes with what its functions do, and with nothing else."""

import sys
import types
from dataclasses import dataclass

import pytest

from unshaken.base.serialize import short_hash, to_json
from unshaken.base.source_digest import code_of, code_of_function

CLASS = """
import math
from dataclasses import dataclass
{before}
@dataclass(frozen=True)
class Mine:
    weight: float = 1.0
    {inside}
    def loss(self, x):
        {doc}
        return {loss}
"""


def made(before: str = "", inside: str = "", doc: str = "", loss: str = "self.weight * x", name: str = "own_losses"):
    """The class as a notebook's cell, or an edited file that is read again, would give it."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(CLASS.format(before=before, inside=inside, doc=doc or "...", loss=loss), module.__dict__)  # noqa: S102
    return module.Mine


HELPED = "def helper(x):\n    return {} * x"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"loss": "self.weight + x"}),
        ({}, {"loss": "self.weight * x * 2"}),
        ({}, {"loss": "math.exp(x)"}),
        ({"loss": "math.log(x)"}, {"loss": "math.exp(x)"}),
        ({}, {"inside": "scale = 2"}),
        ({"inside": "scale = 1"}, {"inside": "scale = 2"}),
        (
            {"inside": "@property\n    def a(self):\n        return 1"},
            {"inside": "@property\n    def a(self):\n        return 2"},
        ),
        (
            {"inside": "@staticmethod\n    def a():\n        return 1"},
            {"inside": "@staticmethod\n    def a():\n        return 2"},
        ),
        (
            {"before": HELPED.format(1), "loss": "helper(x)"},
            {"before": HELPED.format(2), "loss": "helper(x)"},
        ),
        ({"before": "TAU = 0.5", "loss": "x / TAU"}, {"before": "TAU = 0.1", "loss": "x / TAU"}),
        (
            {"before": "class Base:\n    def f(self):\n        return 1\n", "loss": "Base().f()"},
            {"before": "class Base:\n    def f(self):\n        return 2\n", "loss": "Base().f()"},
        ),
        ({"loss": "[k for k in range(3)]"}, {"loss": "[k for k in range(4)]"}),
    ],
)
def test_edited_code_gives_another_recipe_hash(one, other):
    a, b, again = made(**one), made(**other), made(**one)
    assert code_of(a) != code_of(b)
    assert short_hash(a()) != short_hash(b())
    assert short_hash(a()) == short_hash(again())
    assert to_json(a())["code"] == code_of(a)


def test_comments_docstrings_and_layout_do_not_change_the_digest():
    assert code_of(made()) == code_of(made(before="\n\n# a comment\nUNUSED = 3"))
    assert code_of(made(doc='"""One."""')) == code_of(made(doc='"""Another."""'))


def test_library_classes_and_plain_values_have_no_digest():
    from unshaken.attacks.pgd import PGD

    assert code_of(PGD) == ""
    assert "code" not in to_json(PGD())
    assert code_of(int) == ""

    @dataclass(frozen=True)
    class Value:
        size: int = 1

    assert code_of(Value) == ""


def test_a_users_subclass_of_a_library_class_has_a_digest():
    from unshaken.attacks.pgd import PGD

    class Mine(PGD):
        def _begin(self, x, rng):
            return x

    assert len(code_of(Mine)) == 8
    assert to_json(Mine())["code"] == code_of(Mine)


def test_any_callable_has_a_digest():
    def first(x):
        return x + 1

    def second(x):
        return x + 2

    def over(function):
        return lambda x: function(x)

    assert code_of_function(first) != code_of_function(second)
    assert code_of_function(over(first)) != code_of_function(over(second))
    assert code_of_function(first) == code_of_function(first)
    assert code_of_function(made(name="a")().loss) != code_of_function(made(loss="x", name="a")().loss)
