"""The names of pre-training recipes: METHOD/SET, such as acl/cifar10."""

from __future__ import annotations

from collections.abc import Callable

from unshaken.base.python_words import in_python
from unshaken.base.suggest import ASIDE, did_you_mean
from unshaken.recipes.acl_family import acl, acl_air, dynacl, dynacl_air, dynacl_air_pp, dynacl_plain, dynacl_pp, simclr
from unshaken.recipes.datasets import DATASETS, DatasetDefaults
from unshaken.recipes.lp_aff import LPAFF
from unshaken.recipes.on_coresets import acl_rcs, dynacl_rcs, sat_rcs, trades_rcs
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.robust import fare, lore, profeat
from unshaken.recipes.scheduled import a_infonce, a_infonce_rocl, advcl, deacl, rocl, sat, st, trades

RECIPES: dict[str, Callable[[DatasetDefaults], Pretrain | LPAFF]] = {
    "simclr": simclr,
    "acl": acl,
    "dynacl": dynacl,
    "dynacl-plain": dynacl_plain,
    "dynacl++": dynacl_pp,
    "acl-air": acl_air,
    "dynacl-air": dynacl_air,
    "dynacl-air++": dynacl_air_pp,
    "rocl": rocl,
    "advcl": advcl,
    "a-infonce": a_infonce,
    "a-infonce-rocl": a_infonce_rocl,
    "deacl": deacl,
    "fare": fare,
    "lore": lore,
    "profeat": profeat,
    "acl-rcs": acl_rcs,
    "dynacl-rcs": dynacl_rcs,
    "sat-rcs": sat_rcs,
    "trades-rcs": trades_rcs,
    "st": st,
    "sat": sat,
    "trades": trades,
}


@in_python
def recipe(name: str) -> Pretrain | LPAFF:
    """Return the recipe METHOD/SET, such as acl/cifar10. METHOD alone means cifar10, the papers' main set.

    Raises ValueError, with the nearest name, if there is no such recipe.
    """
    method, _, data = name.partition("/")
    if method not in RECIPES:
        hint = did_you_mean(method, RECIPES, ASIDE)
        raise ValueError(f"there is no method {method!r}{hint}; there are {', '.join(RECIPES)}")
    if (data or "cifar10") not in DATASETS:
        hint = did_you_mean(data, DATASETS, ASIDE)
        raise ValueError(
            f"there is no recipe {name!r}{hint}; {method} goes with {', '.join(DATASETS)} "
            "(for images of your own: --data PATH)"
        )
    defaults = DATASETS[data or "cifar10"]
    if defaults.methods and method not in defaults.methods:
        raise ValueError(
            f"there is no recipe {name!r}, because no paper has it: {data} goes with {', '.join(defaults.methods)} "
            f"(or use {method}'s values for another set: {method} --data {data})"
        )
    return RECIPES[method](defaults)
