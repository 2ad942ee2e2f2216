"""Defaults by data set: network, views, ε, epochs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from unshaken.attacks.ball import AnyBall, Linf
from unshaken.base.schedule import AnySchedule, MultiStep, WarmupCosine
from unshaken.data.source import DataSource, standard_name
from unshaken.nets.backbone import Backbone
from unshaken.nets.heads import Projection
from unshaken.train.optim import LARS, SGD, AnyOptimizer
from unshaken.transforms.views import AnyTransform, CropFlip, DigitViews, ResizedCrop, SimCLRViews


@dataclass(frozen=True)
class DatasetDefaults:
    """The fields of a recipe that depend on the data set.

    split         the images to pre-train on
    weak_views    the augmentation of fine-tuning, and of methods that augment weakly
    stair_epochs  epochs of one stair of DynACL's schedules
    classes       number of clusters that DynACL-AIR++ makes
    tau, head     temperature and projection of the ACL family
    methods       the only methods with a recipe for this set, because a paper has it; empty: all methods
    """

    data: DataSource
    split: str = "train"
    backbone: Backbone = Backbone("resnet18", image_size=32)
    views: AnyTransform = SimCLRViews()
    weak_views: AnyTransform = CropFlip()
    ball: AnyBall = Linf(8 / 255)
    optimizer: AnyOptimizer = LARS()
    lr: AnySchedule = WarmupCosine(peak=5.0, warmup=10)
    epochs: int = 1000
    batch_size: int = 512
    stair_epochs: int = 50
    classes: int = 10
    tau: float = 0.5
    head: Projection = Projection()
    methods: tuple[str, ...] = ()


WITHOUT_NORMALISATION: dict[str, tuple[float, ...]] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
"""The coreset papers' networks for ImageNet read pixels in [0, 1] as they are."""

DATASETS = {
    "cifar10": DatasetDefaults(DataSource("cifar10")),
    "cifar100": DatasetDefaults(DataSource("cifar100"), classes=100),
    "stl10": DatasetDefaults(DataSource("stl10"), "unlabeled", Backbone("resnet18", image_size=96)),
    # 1,352 grey images of 8 pixels: minutes on a CPU. Batch, rate and views were chosen on a quarter set aside.
    "digits": DatasetDefaults(
        DataSource("digits"),
        backbone=Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,)),
        views=DigitViews(),
        weak_views=CropFlip(padding=1, flip=0.0),
        ball=Linf(0.1),
        lr=WarmupCosine(peak=5.0, warmup=3),
        epochs=30,
        batch_size=128,
        stair_epochs=2,
    ),
    # 1,281,167 images, as in the coreset papers (GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef)
    "imagenet32": DatasetDefaults(
        DataSource("imagenet32"),
        backbone=Backbone("wrn-28-10", image_size=32, **WITHOUT_NORMALISATION),  # pyright: ignore[reportArgumentType]
        lr=WarmupCosine(peak=0.6, warmup=2),
        epochs=200,
        classes=1000,
        tau=0.1,
        head=Projection(2),
        methods=("simclr", "acl", "acl-rcs", "st", "sat", "sat-rcs"),
    ),
    "imagenet": DatasetDefaults(
        DataSource("imagenet"),
        backbone=Backbone("resnet50", image_size=224, **WITHOUT_NORMALISATION),  # pyright: ignore[reportArgumentType]
        weak_views=ResizedCrop(),
        ball=Linf(4 / 255),
        optimizer=SGD(0.9, 1e-4, nesterov=True),
        # The authors' code uses the rate of epoch + 1, so it falls at epochs 29 and 59, counted from 0.
        lr=MultiStep(0.1, at=(29, 59)),
        epochs=90,
        batch_size=256,
        classes=1000,
        methods=("st", "sat", "sat-rcs"),
    ),
}
"""Defaults by name. A user's own images take those of cifar10, unless the recipe names another set."""


def changed_views(views: AnyTransform, **changes: Any) -> AnyTransform:
    """A set's views with a method's own values; views of another kind than SimCLR's stay as they are."""
    return replace(views, **changes) if isinstance(views, SimCLRViews) else views


def defaults_for(source: DataSource) -> DatasetDefaults:
    """The defaults of a known set, by name or by the name of its folder; those of cifar10 for any other."""
    return DATASETS.get(standard_name(source), DATASETS["cifar10"])
