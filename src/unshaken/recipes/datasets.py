"""What goes with a data set: network, views, ε, epochs."""

from __future__ import annotations

from dataclasses import dataclass

from unshaken.attacks.ball import AnyBall, Linf
from unshaken.base.schedule import AnySchedule, MultiStep, WarmupCosine
from unshaken.data.source import DataSource, standard_name
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
        backbone=Backbone("wrn-28-10", image_size=32, **AS_IT_IS),
        lr=WarmupCosine(peak=0.6, warmup=2),
        epochs=200,
        classes=1000,
        tau=0.1,
        head=Projection(2),
        methods=("simclr", "acl", "acl-rcs", "st", "sat", "sat-rcs"),
    ),
    "imagenet": DatasetDefaults(
        DataSource("imagenet"),
        backbone=Backbone("resnet50", image_size=224, **AS_IT_IS),
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


def defaults_for(source: DataSource) -> DatasetDefaults:
    return DATASETS.get(standard_name(source), DATASETS["cifar10"])
