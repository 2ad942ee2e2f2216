"""Recipes of a user's own: a value or a function in a Python file, `mine.py:recipe`."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from unshaken.base.own_code import find
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.lp_aff import LPAFF
from unshaken.recipes.pretrain import Pretrain


def is_own_recipe(name: str) -> bool:
    """Return whether a recipe's name is of a user's own, FILE.py:NAME or PACKAGE.MODULE:NAME."""
    return ":" in name


def own_recipe(name: str) -> Pretrain | LPAFF:
    """Return the recipe that a name stands for, a value or what a function without arguments returns.

    The name is the user's: what a file of somebody else says must never be given here, for its code runs. A run's name
    hashes the values, and the code of each class that is not of this package.
    """
    found: Any = find(name)
    if callable(found):
        needed = [
            each.name
            for each in inspect.signature(found).parameters.values()
            if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        if needed:
            raise ValueError(f"{name} needs {', '.join(needed)}, and a recipe's function is called without arguments")
        found = found()
    if not isinstance(found, (Pretrain, LPAFF)):
        raise ValueError(
            f"{name} is a {type(found).__name__}, and not a recipe, such as replace(recipe('acl/digits'), ...)"
        )
    method = getattr(found, "method", None)
    if found.name in RECIPES and not type(method).__module__.startswith("unshaken."):
        print(
            f"note: {name} calls itself {found.name!r}, as a recipe of the papers: name='...' in it tells its results "
            "apart",
            file=sys.stderr,
        )
    return found
