"""Recipes on a robustness-aware coreset (RCS), a fifth or a tenth of the images at a time."""

from __future__ import annotations

from dataclasses import replace

from unshaken.attacks.pgd import PGD
from unshaken.coreset.rcs import RCS
from unshaken.recipes.acl_family import acl, dynacl_plain
from unshaken.recipes.datasets import DatasetDefaults
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.scheduled import sat, trades


def acl_rcs(defaults: DatasetDefaults) -> Pretrain:
    """ACL on a robustness-aware coreset, a fifth of the images at a time. Xu et al. 2023.

    unshaken pretrain acl-rcs/imagenet32   |   a twentieth at a time; 12 to 16 h on one H200 (projected; reported: 112 h
    on RTX A5000s, 650 h for all images)   |   SA / RA to CIFAR-10: SLF 70.02 / 22.45, ALF 63.94 / 31.13, AFF 85.23 /
    52.21, to CIFAR-100: 40.28 / 14.55, 33.15 / 14.89, 60.25 / 28.24 (all reported; not run here)
    """
    return contrastive_on_coresets(acl(defaults), "acl-rcs", defaults)


def dynacl_rcs(defaults: DatasetDefaults) -> Pretrain:
    """DynACL-plain on a robustness-aware coreset, a fifth of the images at a time. Xu et al. 2023."""
    return contrastive_on_coresets(dynacl_plain(defaults), "dynacl-rcs", defaults)


def sat_rcs(defaults: DatasetDefaults) -> Pretrain:
    """SAT, with labels, on a robustness-aware coreset, a tenth of the images at a time. Xu et al. 2023.

    unshaken pretrain sat-rcs/imagenet32   |   3 to 6 h on one H200 (projected; reported: 82 h, 342 h for all images)
    |   SA / RA to CIFAR-10: ALF 81.92 / 45.10, AFF 88.87 / 57.69 (reported; not run here)
    unshaken pretrain sat-rcs/imagenet   |   at 224 pixels; neither cost nor scores are reported; not run here
    """
    return supervised_on_coresets(sat(defaults), "sat-rcs", defaults)


def trades_rcs(defaults: DatasetDefaults) -> Pretrain:
    """TRADES, with labels, on a robustness-aware coreset, a tenth of the images at a time; in no paper."""
    return supervised_on_coresets(trades(defaults), "trades-rcs", defaults)


def contrastive_on_coresets(recipe: Pretrain, name: str, defaults: DatasetDefaults) -> Pretrain:
    """A contrastive recipe on coresets.

    On digits a fifth of the images is two steps an epoch in the demo's time: there epochs are more and batches smaller.
    """
    if defaults.data.name == "digits":
        recipe = replace(recipe, epochs=100, batch_size=64)
    return replace(recipe, name=name, coreset=rcs(defaults, recipe.epochs))


def supervised_on_coresets(recipe: Pretrain, name: str, defaults: DatasetDefaults) -> Pretrain:
    """A supervised recipe on coresets: warm-up on all images, then a selection every ten epochs.

    The attack on the validation images takes one step that is longer than ε.
    """
    if defaults.data.name == "digits":
        return replace(recipe, name=name, coreset=rcs(defaults, defaults.epochs))
    warmup, rel_step_size = (10, 3.0) if defaults.data.name == "imagenet" else (1, 5 / 2)
    validation, steps = (0.005, 1) if defaults.data.name.startswith("imagenet") else (0.01, None)
    attack = PGD(defaults.ball, steps=1, rel_step_size=rel_step_size, init="gaussian")
    coreset = RCS(fraction=0.1, warmup=warmup, every=10, validation=validation, steps=steps, attack=attack)
    return replace(recipe, name=name, coreset=coreset)


def rcs(defaults: DatasetDefaults, epochs: int) -> RCS:
    """RCS with a warm-up of a tenth of the epochs, and a selection every fiftieth of them: 100 and 20 of 1,000."""
    if defaults.data.name == "imagenet32":
        attack = PGD(defaults.ball, steps=1, rel_step_size=5 / 4, init="gaussian")
        return RCS(fraction=0.05, warmup=20, every=10, validation=0.005, steps=1, attack=attack)
    attack = PGD(defaults.ball, steps=3, rel_step_size=5 / 12)
    if defaults.data.name != "digits":
        return RCS(fraction=0.2, warmup=epochs // 10, every=max(1, epochs // 50), attack=attack)
    # Digits are few: more than 1 % for validation, smaller batches to select, and a selection more often.
    every = max(1, epochs // 20)
    return RCS(
        fraction=0.2, warmup=epochs // 5, every=every, validation=0.1, batch_size=16, steps=1, attack=attack
    )  # fmt: skip
