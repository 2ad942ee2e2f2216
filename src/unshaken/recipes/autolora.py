"""AutoLoRa as a recipe: rate, weights and the epoch that is kept are chosen on training images kept aside.

Xu et al., ICLR 2024, arXiv:2310.01818. The released code validates on the training images themselves, and takes the
epoch that is best on the test images; no test image is seen here.
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
    """A classifier on an encoder by AutoLoRa. A recipe like `Finetune`, and a run like its runs."""

    method: AutoLoRa = AutoLoRa()
    data: DataSource = DataSource("cifar10")
    views: AnyTransform = CropFlip()
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=2e-4)
    lr: AutoRate = AutoRate()
    epochs: Count = 50
    batch_size: Several = 128
    aside: Several = 20
    """Every so many-th training image of each class is not trained on: after each epoch the robust accuracy there says
    what becomes of the rate, and which epoch is kept."""
    validation: Evaluation = Evaluation()
    """That robust accuracy: under PGD-20."""
    holdout: Natural = 0
    """Every so many-th training image of each class is kept from all this too, for choices between recipes
    (`evaluate --held-out` judges there); 0 keeps none."""
    seed: Whole = 1

    def __post_init__(self) -> None:
        if self.aside < 2:
            raise ValueError(
                f"aside is how many images of a class there are to one kept aside, 2 or more; not {self.aside}"
            )
        Finetune(self.method, self.data, self.views, holdout=self.holdout)  # checks views and holdout

    @property
    def mode(self) -> str:
        return type(self.method).__name__.lower()


def autolora(source: DataSource) -> AutoFinetune:
    """The published choices for a set of labelled images; for digits our own."""
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
"""Chosen on a quarter held out of the training images, for accuracy within the demo's minutes."""
