"""Alternatives: the kinds by which a part of a recipe can be exchanged, as --optimizer SGD does"""

from __future__ import annotations

from unshaken.base.clock import Constant, Milestones, Stairs, WarmupCosine
from unshaken.coreset.cover import FacilityLocation, GradientMatching, KCenter
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import All, Random, Ranked
from unshaken.nets.heads import Bare, Classifier, Forked, Projection
from unshaken.pixels.augment import Beside, CropFlip, Digit, ResizedCrop, SimCLR, Still
from unshaken.threat.ball import L2, Linf
from unshaken.train.optim import LARS, SGD, AdamW
from unshaken.tune.full import AFF
from unshaken.tune.linear import ALF, SLF

Kinds = tuple[type, ...]

ALTERNATIVES: tuple[Kinds, ...] = (
    (Constant, Stairs, WarmupCosine, Milestones),
    (Projection, Bare, Classifier, Forked),
    (Linf, L2),
    (RCS, Random, KCenter, FacilityLocation, GradientMatching, Ranked, All),
    (SimCLR, Digit, CropFlip, ResizedCrop, Still, Beside),
    (SGD, AdamW, LARS),
    (SLF, ALF, AFF),
)
"""A part of one kind can be exchanged for every other kind of its row. A test holds that no kind is missing."""


def alternatives(kind: type) -> Kinds:
    """The kinds that can take the place of one, itself among them."""
    return next((row for row in ALTERNATIVES if kind in row), (kind,))
