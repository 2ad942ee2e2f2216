"""LP-AFF, the ++ of DynACL++: pseudo-labels, a linear probe on them, then adversarial full fine-tuning.

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
    lr: AnySchedule
    epochs: Count
    batch_size: Several = 512
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=1e-4)


@dataclass(frozen=True)
@ranged
class LPAFF:
    """Three stages: cluster f's clean features, fit a classifier on frozen f to the clusters, then TRADES on all of it.

    Only the adversarial route is trained, on clean and adversarial images alike. What comes out is an encoder.
    """

    name: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "dynacl++"
    teacher: str = "dynacl/cifar10"
    """The encoder: a recipe, then run first on the same images; a run; or a file."""
    data: DataSource = DataSource("cifar10")
    split: str = "train"
    clusters: Several = 10
    """Of k-means. 10 in DynACL's code, on CIFAR-100 too; as many as there are classes in AIR's."""
    views: AnyTransform = CropFlip()
    probe: Stage = Stage(SLF(), Constant(0.01), epochs=10)
    tune: Stage = Stage(AFF(natural="adv"), MultiStep(0.1, at=(10, 20)), epochs=25)
    dual: bool = True
    """Keep the clean route beside the adversarial one, as it was: the released encoders for dual AFF have it so, though
    the convolutions have moved away under it. False: the adversarial route alone, a plain encoder."""
    seed: Whole = 1

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ValueError("the test images are for the evaluation: an encoder that saw them proves nothing")
        if self.views.count != 1:
            raise ValueError(f"pseudo-labels are learned from 1 view of an image, not {self.views.count}")
        if self.clusters < 2:
            raise ValueError(f"there have to be at least 2 clusters, not {self.clusters}")
