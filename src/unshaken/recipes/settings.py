"""What goes with a data set: network, views, ε, epochs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unshaken.base.clock import Schedule, WarmupCosine
from unshaken.data.source import Source
from unshaken.nets.backbone import Backbone
from unshaken.pixels.augment import CropFlip, Digit, SimCLR, Transform
from unshaken.threat.ball import Ball, Linf
from unshaken.train.optim import LARS, Optimizer


@dataclass(frozen=True)
class Setting:
    """The part of a recipe that the data set decides.

    split   to pre-train on
    every   epochs of one stair of DynACL's schedules
    classes as many clusters does DynACL-AIR++ make of it
    weak    the augmentation of fine-tuning
    """

    data: Source
    split: str = "train"
    backbone: Backbone = Backbone("resnet18", stem=32)
    views: Transform = SimCLR()
    weak: Transform = CropFlip()
    ball: Ball = Linf(8 / 255)
    optimizer: Optimizer = LARS()
    rate: Schedule = WarmupCosine(peak=5.0, warmup=10)
    epochs: int = 1000
    batch: int = 512
    every: int = 50
    classes: int = 10


SETTINGS = {
    "cifar10": Setting(Source("cifar10")),
    "cifar100": Setting(Source("cifar100"), classes=100),
    "stl10": Setting(Source("stl10"), "unlabeled", Backbone("resnet18", stem=96)),
    # 1,352 grey images of 8 pixels: minutes on a CPU. Batch, rate and views were chosen on a quarter held out of them.
    "digits": Setting(
        Source("digits"),
        backbone=Backbone("resnet-small", stem=8, channels=1, mean=(0.5,), std=(0.5,)),
        views=Digit(),
        weak=CropFlip(padding=1, flip=0.0),
        ball=Linf(0.1),
        rate=WarmupCosine(peak=5.0, warmup=3),
        epochs=30,
        batch=128,
        every=2,
    ),
}
"""By data set; a user's own images take cifar10's unless the recipe is named otherwise."""


def known_as(source: Source) -> str:
    """The known set that a source is, or that its folder is called (a Parquet copy in cifar10/); else its own name."""
    called = Path(source.name).stem.lower()
    return called if called in ("cifar10", "cifar100", "stl10") else source.name


def source_of(saved: dict[str, Any]) -> Source:
    """The source that a recipe in JSON names."""
    return Source(**{name: value for name, value in saved.items() if name != "type"})


def setting_of(source: Source) -> Setting:
    return SETTINGS.get(known_as(source), SETTINGS["cifar10"])
