"""Recipes that make a pre-trained encoder robust without labels: FARE, LORE, ProFeAT, and DeACL for any encoder."""

from __future__ import annotations

from dataclasses import replace

from unshaken.attacks.ball import AnyBall, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.schedule import WarmupCosine
from unshaken.base.suggest import did_you_mean
from unshaken.data.source import DataSource
from unshaken.methods.deacl import DeACL
from unshaken.methods.fare import FARE
from unshaken.methods.lore import LORE
from unshaken.methods.profeat import ProFeAT
from unshaken.nets.backbone import Backbone
from unshaken.nets.heads import Multiplier, NoHead
from unshaken.recipes.datasets import DatasetDefaults, defaults_for
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.averaging import EMA
from unshaken.train.guard import Guard
from unshaken.train.optim import SGD, AdamW
from unshaken.transforms.views import AnyTransform, AnyViews, Concat, CropFlip, SimCLRViews

OBJECTIVES = ("deacl", "fare", "profeat", "lore")
"""The objectives of `unshaken robustify`, the default first."""
EPOCHS = {"deacl": 8, "fare": 12, "profeat": 12, "lore": 12}
"""Passes over the images. Twelve make `deacl` three points more robust, for one and a half times the time; `fare` needs
them (docs/robustify.md)."""
UPDATES = 125
"""The fewest updates in a pass."""
BATCHES = (16, 32, 64)
"""Batches to choose from: the largest that leaves UPDATES in a pass, else the smallest. More updates on the same images
made encoders more robust, at equal cost (docs/robustify.md)."""


def fare(defaults: DatasetDefaults) -> Pretrain:
    """Attacked images keep the embedding that a frozen teacher gives the clean ones. Schlarmann et al. 2024."""
    return from_teacher("fare", defaults)


def lore(defaults: DatasetDefaults) -> Pretrain:
    """FARE under a constraint on the drift of clean images. Khodabandeh, Afzali et al. 2025."""
    return from_teacher("lore", defaults)


def profeat(defaults: DatasetDefaults) -> Pretrain:
    """A robust student of a teacher, with a weak view for the teacher and a strong one. Addepalli et al. 2024."""
    return from_teacher("profeat", defaults)


def from_teacher(name: str, defaults: DatasetDefaults) -> Pretrain:
    """A student of the encoder that SimCLR learns from the same images, at the set's ε."""
    recipe = robust_recipe(name, f"simclr/{defaults.data.name}", defaults.backbone, defaults.data, defaults.ball)
    lr = WarmupCosine(recipe.lr.peak, warmup=min(1.0, recipe.lr.warmup), floor=0.0)  # pyright: ignore[reportAttributeAccessIssue]
    return replace(recipe, lr=lr, split=defaults.split, views=views_of(name, defaults.weak_views), epochs=20)


def robust_recipe(
    objective: str,
    encoder: str,
    backbone: Backbone,
    data: DataSource,
    ball: AnyBall | None = None,
    images: int | None = None,
) -> Pretrain:
    """Return the recipe that makes an encoder robust on images without labels, with the encoder as its teacher.

    objective  one of OBJECTIVES
    encoder    the encoder's file or run, the student's start and teacher
    ball       what an attacker may change; None: the set's own if it is a standard one, else ε = 4/255
    images     about how many images there are, on which the batch depends; None: the largest batch

    docs/robustify.md says where the values come from, and what was not tried.
    """
    if objective not in OBJECTIVES:
        raise ValueError(
            f"there is no objective {objective!r}{did_you_mean(objective, OBJECTIVES)}; there are {OBJECTIVES}"
        )
    known = defaults_for(data)
    standard = known.data.name == data.name
    ball = ball or (known.ball if standard else Linf(4 / 255))
    attack = PGD(ball, steps=2, rel_step_size=0.75)
    method = {
        "fare": FARE(attack),
        "deacl": DeACL(attack, gamma=4.0),
        "profeat": ProFeAT(attack, beta=8.0),
        "lore": LORE(attack, rho=0.1, updates=2, dual_rate=3.0),
    }[objective]
    by_angle = objective in ("deacl", "profeat")
    peak = {"fare": 5e-4, "lore": 1e-4}.get(objective, 0.5)  # at 5e-4 clean images drift by more than LORE's ρ allows
    side = data.size or backbone.image_size
    return Pretrain(
        name=objective,
        method=method,
        data=data,
        backbone=backbone,
        head=Multiplier() if objective == "lore" else NoHead(),
        views=views_of(objective, known.weak_views if standard else CropFlip(padding=max(1, side // 12))),
        optimizer=SGD(0.9, 5e-4) if by_angle else AdamW(weight_decay=1e-4),
        lr=WarmupCosine(peak, warmup=1.0, floor=0.0),
        epochs=EPOCHS[objective],
        batch_size=batch_for(images),
        teacher=encoder,
        start="teacher",
        averaging=EMA(),
        batch_norm="train" if by_angle else "frozen",
        guard=Guard(),
    )


def batch_for(images: int | None) -> int:
    """Return the batch for a number of images."""
    if images is None:
        return BATCHES[-1]
    return max((batch for batch in BATCHES if images >= batch * UPDATES), default=BATCHES[0])


def views_of(objective: str, weak: AnyTransform) -> AnyViews:
    """Return the views that an objective takes: a weak one; for ProFeAT also a strong one, with changed colours."""
    return Concat(weak, SimCLRViews(count=1, min_area=0.5, p_grey=0.0)) if objective == "profeat" else weak
