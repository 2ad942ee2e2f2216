"""LP-AFF, the ++ of DynACL++: pseudo-labels, a linear probe, then adversarial fine-tuning.

Luo et al., ICLR 2023, arXiv:2303.01289, section 4.3 (PKU-ML/DYNACL, LPAFT.py at 7d143db); for DynACL-AIR, Xu et al.,
NeurIPS 2023, arXiv:2305.00374. No label of the images is used: the classes are k-means clusters of the encoder's own
features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from unshaken.base.ranges import Count, Several, Whole, ranged
from unshaken.base.schedule import AnySchedule, Constant, MultiStep
from unshaken.data.source import DataSource
from unshaken.methods.supervised import AFF, SLF
from unshaken.methods.tuning import AnyTuning
from unshaken.train.optim import SGD, AnyOptimizer
from unshaken.transforms.views import AnyTransform, CropFlip


@dataclass(frozen=True)
@ranged
class Stage:
    """One of the two trainings on pseudo-labels."""

    method: AnyTuning
    """Which weights are trained, and on which images."""
    lr: AnySchedule
    """Learning rate over the epochs."""
    epochs: Count
    """Passes over the training images."""
    batch_size: Several = 512
    """Images in a batch."""
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=1e-4)
    """Optimizer of the weights."""


@dataclass(frozen=True)
@ranged
class LPAFF:
    """Cluster f's clean features, fit a classifier on frozen f to the clusters, then train both by TRADES.

    Only the adversarial route is trained, on clean and adversarial images alike. The result is an encoder.
    """

    name: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "dynacl++"
    teacher: str = "dynacl/cifar10"
    """Encoder to start from: a run, a file, or a recipe, which is trained first on the same images."""
    data: DataSource = DataSource("cifar10")
    """Training images; their labels are not used."""
    split: str = "train"
    """Split of the data set to train on."""
    clusters: Several = 10
    """Number of k-means clusters. DynACL's code uses 10, on CIFAR-100 too; AIR's uses the number of classes."""
    views: AnyTransform = CropFlip()
    """Random augmentation of the images."""
    probe: Stage = Stage(SLF(), Constant(0.01), epochs=10)
    """First training: a linear classifier on the frozen encoder."""
    tune: Stage = Stage(AFF(natural="adv"), MultiStep(0.1, at=(10, 20)), epochs=25)
    """Second training: encoder and classifier together."""
    dual: bool = True
    """Save the old clean route beside the adversarial one, as the released encoders do, although the convolutions have
    changed since. Otherwise the encoder has only the adversarial route."""
    seed: Whole = 1
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ValueError("the test images are for the evaluation: an encoder that has seen them proves nothing")
        if self.views.count != 1:
            raise ValueError(f"pseudo-labels are learned from 1 view of an image, not {self.views.count}")
        if self.clusters < 2:
            raise ValueError(f"there have to be at least 2 clusters, not {self.clusters}")
