"""What goes with a data set: network, views, ε, epochs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unshaken.attacks.ball import L2, AnyBall, Ball, Linf
from unshaken.base.json_shapes import Or, Whole, check_shape
from unshaken.base.schedule import AnySchedule, MultiStep, WarmupCosine
from unshaken.data.source import KNOWN, UNKNOWN, DataSource
from unshaken.nets.backbone import Backbone
from unshaken.nets.heads import Projection
from unshaken.train.optim import LARS, SGD, AnyOptimizer
from unshaken.transforms.views import AnyTransform, CropFlip, DigitViews, ResizedCrop, SimCLRViews


@dataclass(frozen=True)
class DatasetDefaults:
    """The part of a recipe that the data set decides.

    split   to pre-train on
    every   epochs of one stair of DynACL's schedules
    classes as many clusters does DynACL-AIR++ make of it
    weak    the augmentation of fine-tuning
    tau     of the ACL family's contrast, and
    head    its projection
    methods that there is a recipe for, because a paper has it; empty: all
    """

    data: DataSource
    split: str = "train"
    backbone: Backbone = Backbone("resnet18", image_size=32)
    views: AnyTransform = SimCLRViews()
    weak: AnyTransform = CropFlip()
    ball: AnyBall = Linf(8 / 255)
    optimizer: AnyOptimizer = LARS()
    lr: AnySchedule = WarmupCosine(peak=5.0, warmup=10)
    epochs: int = 1000
    batch_size: int = 512
    every: int = 50
    classes: int = 10
    tau: float = 0.5
    head: Projection = Projection()
    methods: tuple[str, ...] = ()


AS_IT_IS: dict[str, tuple[float, ...]] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
"""The coreset papers' networks for ImageNet read pixels in [0, 1] without a normalisation."""

DATASETS = {
    "cifar10": DatasetDefaults(DataSource("cifar10")),
    "cifar100": DatasetDefaults(DataSource("cifar100"), classes=100),
    "stl10": DatasetDefaults(DataSource("stl10"), "unlabeled", Backbone("resnet18", image_size=96)),
    # 1,352 grey images of 8 pixels: minutes on a CPU. Batch, rate and views were chosen on a quarter held out of them.
    "digits": DatasetDefaults(
        DataSource("digits"),
        backbone=Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,)),
        views=DigitViews(),
        weak=CropFlip(padding=1, flip=0.0),
        ball=Linf(0.1),
        lr=WarmupCosine(peak=5.0, warmup=3),
        epochs=30,
        batch_size=128,
        every=2,
    ),
    # 1,281,167 images, as in the coreset papers (GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef)
    "imagenet32": DatasetDefaults(
        DataSource("imagenet32"),
        backbone=Backbone("wrn-28-10", image_size=32, **AS_IT_IS),  # pyright: ignore[reportArgumentType]
        lr=WarmupCosine(peak=0.6, warmup=2),
        epochs=200,
        classes=1000,
        tau=0.1,
        head=Projection(2),
        methods=("simclr", "acl", "acl-rcs", "st", "sat", "sat-rcs"),
    ),
    "imagenet": DatasetDefaults(
        DataSource("imagenet"),
        backbone=Backbone("resnet50", image_size=224, **AS_IT_IS),  # pyright: ignore[reportArgumentType]
        weak=ResizedCrop(),
        ball=Linf(4 / 255),
        optimizer=SGD(0.9, 1e-4, nesterov=True),
        # their code asks for the rate of epoch + 1, so that it falls in epochs 29 and 59, counted from 0
        lr=MultiStep(0.1, at=(29, 59)),
        epochs=90,
        batch_size=256,
        classes=1000,
        methods=("st", "sat", "sat-rcs"),
    ),
}
"""By data set; a user's own images take cifar10's unless the recipe is named otherwise."""


BALLS: dict[str, type[Ball]] = {"Linf": Linf, "L2": L2}


def known_as(source: DataSource) -> str:
    """The known set that a source is, or that its folder is called (a Parquet copy in cifar10/); else its own name."""
    called = Path(source.name).stem.lower()
    return called if called in DATASETS and called != "digits" else source.name


SOURCE = {
    "name": str,
    "root?": str,
    "size?": Or((Whole(1), None)),
    "limit?": Or((Whole(1), None)),
    "download?": bool,
    "unreadable?": ("stop", "skip"),
    "bits?": Or((Whole(8, 16), None)),
}
"""What a recipe in JSON says of its images."""


def source_of(saved: dict[str, Any], run: Path | None = None) -> DataSource:
    """The image set that a recipe in JSON names. What a file says of places and of the network is not followed.

    run  the folder that the recipe is of. If it is that of a run, its set may be a path, and lie in another root, as
         long as no folder for decoded images would be made there. Elsewhere, in a file that somebody sent, a path is an
         unknown set, and known ones lie in one's root.

    ValueError if this version knows no such source.
    """
    saved = check_shape(saved, SOURCE, "the recipe's data")
    fields = {name: value for name, value in saved.items() if name not in ("type", "root", "download")}
    own = run is not None and (run / "recipe.json").exists()
    root = Path(saved.get("root") or "data").expanduser()
    if own and "root" in saved and ((root / "cache").is_dir() or root.is_dir() and not os.access(root, os.W_OK)):
        fields["root"] = saved["root"]
    if not own and fields["name"] not in KNOWN:
        fields["name"] = UNKNOWN
    try:
        return DataSource(**fields)
    except TypeError as error:
        raise ValueError(f"the recipe's data cannot be read by this version ({error}): is it newer?") from None


def ball_of(method: dict[str, Any] | None) -> Ball | None:
    """The ball of a method's attack, from a recipe in JSON; None for a method that has no attack."""
    for value in (method or {}).values():
        if isinstance(value, dict):
            found = value.get("ball", {})
            if isinstance(found, dict) and found.get("type") in BALLS and isinstance(found.get("eps"), (int, float)):
                return BALLS[found["type"]](found["eps"])
            if (inner := ball_of(value)) is not None:
                return inner
    return None


def in_words(ball: Ball) -> str:
    """ε = 8/255 (l∞)."""
    levels = round(ball.eps * 255)
    size = f"{levels}/255" if levels and abs(ball.eps * 255 - levels) < 1e-6 else f"{ball.eps:g}"
    return f"ε = {size} ({'l∞' if isinstance(ball, Linf) else 'l2'})"


def defaults_for(source: DataSource) -> DatasetDefaults:
    return DATASETS.get(known_as(source), DATASETS["cifar10"])
