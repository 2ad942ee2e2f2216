"""AutoLoRa's recipe: held-out training images decide on learning rate, weights and epoch.

Xu et al., ICLR 2024, arXiv:2310.01818. The released code validates on the training images themselves, and takes the
epoch that is best on the test images; here no test image is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Natural, Several, Whole, ranged
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.methods.autolora import AutoLoRa, AutoRate
from unshaken.recipes.datasets import defaults_for
from unshaken.recipes.finetune import Finetune
from unshaken.train.optim import SGD, AnyOptimizer
from unshaken.transforms.views import AnyTransform, CropFlip


@dataclass(frozen=True)
@ranged
class AutoFinetune:
    """The recipe of a classifier on an encoder by AutoLoRa."""

    method: AutoLoRa = AutoLoRa()
    """Which weights are trained, and on which images."""
    data: DataSource = DataSource("cifar10")
    """Labelled training images."""
    views: AnyTransform = CropFlip()
    """Random augmentation of the images."""
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=2e-4)
    """Optimizer of the weights."""
    lr: AutoRate = AutoRate()
    """Learning rate, which falls when the validation accuracy no longer rises."""
    epochs: Count = 50
    """Passes over the training images."""
    batch_size: Several = 128
    """Images in a batch."""
    aside: Several = 20
    """Use one in this many training images of each class for validation instead of training. Their robust accuracy
    after each epoch decides on the learning rate, and on the epoch whose weights are saved at the end."""
    validation: Evaluation = Evaluation()
    """How that robust accuracy is measured: by PGD-20."""
    holdout: Natural = 0
    """Hold out one in this many training images of each class, besides --aside, for choices between recipes: `evaluate
    --held-out` evaluates on them. 0 holds out none."""
    seed: Whole = 1
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        if self.aside < 2:
            raise ValueError(f"aside is 2 or more: one image in that many is used for validation; not {self.aside}")
        Finetune(self.method, self.data, self.views, holdout=self.holdout)  # checks views and holdout

    @property
    def mode(self) -> str:
        return type(self.method).__name__.lower()


def autolora(source: DataSource) -> AutoFinetune:
    """The published recipe for a set of labelled images; for digits our own."""
    defaults = defaults_for(source)
    recipe = AutoFinetune(
        AutoLoRa(PGD(defaults.ball, steps=10, init="gaussian")),
        source,
        defaults.weak_views,
        validation=Evaluation(PGD(defaults.ball, steps=20)),
    )
    if source.name == "digits":
        return replace(recipe, **DIGITS)
    return recipe


DIGITS: dict[str, Any] = {"epochs": 15, "aside": 10}
"""Chosen on a quarter of the training images that was held out, for accuracy within the demo's minutes."""
