"""Recipes of the ACL family: SimCLR, ACL, DynACL, AIR and the second stage of DynACL++."""

from __future__ import annotations

from dataclasses import replace

from unshaken.attacks.pgd import PGD
from unshaken.base.schedule import Constant, MultiStep, Schedule, StepSchedule
from unshaken.methods.acl import ACL
from unshaken.methods.air import AIR
from unshaken.methods.base import Method
from unshaken.methods.dynacl import DynACL
from unshaken.methods.simclr import SimCLR
from unshaken.methods.supervised import AFF
from unshaken.recipes.datasets import DatasetDefaults, changed_views
from unshaken.recipes.lp_aff import LPAFF
from unshaken.recipes.pretrain import Pretrain
from unshaken.transforms.views import Views


def simclr(defaults: DatasetDefaults) -> Pretrain:
    """Contrastive learning (CL), the baseline that does not know of attacks. Chen et al. 2020.

    unshaken pretrain simclr/imagenet32   |   14 h on one H200 (projected; reported: 147 h on RTX A5000s)   |   SA / RA
    to CIFAR-10: SLF 84.36 / 0.01, ALF 10.00 / 10.00, AFF 86.63 / 49.71 (reported; not run here)
    """
    return pretrain_recipe("simclr", SimCLR(tau=defaults.tau), defaults)


def acl(defaults: DatasetDefaults) -> Pretrain:
    """Adversarial contrastive learning, dual stream. Jiang et al. 2020.

    unshaken pretrain acl/imagenet32   |   76 h on one H200 (projected; reported: 650 h on RTX A5000s)   |   no score is
    reported, and it has not been run here
    """
    return pretrain_recipe("acl", acl_method(defaults), defaults)


def dynacl(defaults: DatasetDefaults) -> Pretrain:
    """ACL with annealed augmentation, rising ω and a momentum encoder. Luo et al. 2023."""
    # The teacher averages over one epoch: 1/(1 - 0.99) of CIFAR's 98 steps, 1/(1 - 0.9) of digits' 11.
    momentum = 0.9 if defaults.data.name == "digits" else 0.99
    method = DynACL(dynamic_acl_method(defaults), momentum=momentum)
    views = changed_views(defaults.views, filter="bilinear")
    return pretrain_recipe("dynacl", method, defaults, views=views, strength=annealed(defaults))


def dynacl_plain(defaults: DatasetDefaults) -> Pretrain:
    """ACL with annealed augmentation and rising ω, without DynACL's momentum encoder. Luo et al. 2023."""
    return pretrain_recipe("dynacl-plain", dynamic_acl_method(defaults), defaults, strength=annealed(defaults))


def acl_air(defaults: DatasetDefaults) -> Pretrain:
    """ACL with adversarial invariant regularisation. Xu et al. 2023."""
    return pretrain_recipe("acl-air", AIR(acl_method(defaults), lambda1=0.5, lambda2=0.5), defaults)


def dynacl_air(defaults: DatasetDefaults) -> Pretrain:
    """DynACL-plain with adversarial invariant regularisation. Xu et al. 2023."""
    method = AIR(dynamic_acl_method(defaults), lambda1=0.5, lambda2=0.5)
    return pretrain_recipe("dynacl-air", method, defaults, strength=annealed(defaults))


def dynacl_pp(defaults: DatasetDefaults) -> LPAFF:
    """DynACL, then pseudo-labels, a linear probe and TRADES on them (LP-AFF). Luo et al. 2023."""
    return lp_aff_recipe("dynacl", defaults, clusters=10)


def dynacl_air_pp(defaults: DatasetDefaults) -> LPAFF:
    """DynACL-AIR, then the same post-processing. Xu et al. 2023."""
    return lp_aff_recipe("dynacl-air", defaults, clusters=defaults.classes)


def pretrain_recipe(
    name: str,
    method: Method,
    defaults: DatasetDefaults,
    views: Views | None = None,
    strength: Schedule = Constant(1.0),
) -> Pretrain:
    """A method with all that the ACL family uses on a data set."""
    return Pretrain(
        name=name,
        method=method,
        data=defaults.data,
        split=defaults.split,
        backbone=defaults.backbone,
        head=defaults.head,
        views=views or defaults.views,
        strength=strength,
        optimizer=defaults.optimizer,
        lr=defaults.lr,
        epochs=defaults.epochs,
        batch_size=defaults.batch_size,
    )


def acl_method(defaults: DatasetDefaults) -> ACL:
    return ACL(PGD(defaults.ball, steps=5), tau=defaults.tau)


def dynamic_acl_method(defaults: DatasetDefaults) -> ACL:
    """ACL whose ω rises from 0 to 2/3 in stairs."""
    omega = StepSchedule(0.0, 2 / 3, every=defaults.stair_epochs)
    return ACL(PGD(defaults.ball, steps=5), tau=defaults.tau, omega=omega)


def annealed(defaults: DatasetDefaults) -> StepSchedule:
    """Augmentation strength from 1 towards 0, in stairs."""
    return StepSchedule(1.0, 0.0, every=defaults.stair_epochs)


def lp_aff_recipe(method: str, defaults: DatasetDefaults, clusters: int) -> LPAFF:
    """The three stages of LP-AFF after a method's pre-training; on digits with rates and epochs of our own."""
    attack = PGD(defaults.ball, steps=10, init="gaussian")
    recipe = LPAFF(
        name=f"{method}++",
        teacher=f"{method}/{defaults.data.name}",
        data=defaults.data,
        split=defaults.split,
        clusters=clusters,
        views=defaults.weak_views,
    )
    tune = replace(recipe.tune, method=AFF(attack, beta=6.0, natural="adv"))
    if defaults.data.name != "digits":
        return replace(recipe, tune=tune)
    probe = replace(recipe.probe, lr=Constant(0.1), batch_size=128)
    tune = replace(tune, lr=MultiStep(0.05, at=(8, 12)), epochs=15, batch_size=128)
    return replace(recipe, probe=probe, tune=tune)
