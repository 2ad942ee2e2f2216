"""Pre-training: every choice as one value, and the run that it names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from unshaken.base.ranges import Count, Several, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Constant, WarmupCosine
from unshaken.base.serialize import LATER
from unshaken.coreset.selectors import AnySelector
from unshaken.data.source import DataSource
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import AnyHead, Projection
from unshaken.nets.network import Network, seeded
from unshaken.train.approximations import Approximations
from unshaken.train.optim import LARS, AnyOptimizer
from unshaken.transforms.views import AnyViews, SimCLRViews


@dataclass(frozen=True)
@ranged
class Pretrain:
    """An encoder from images. Equal values, equal bits: the run is named by their hash.

    What a recipe begins with (teacher, start) is a recipe's name, then run first on the same images from the same seed;
    or a run's folder; or an encoder file. An encoder that lends its weights has this recipe's network, or is a file,
    and then it is this recipe that takes the file's.
    """

    name: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "acl"
    """Of the paper's method: runs and results are called by it, and presets of fine-tuning go by it."""
    method: Method = ACL()
    data: DataSource = DataSource("cifar10")
    """Images are resized to backbone.image_size, unless data.size says otherwise."""
    split: str = "train"
    """Of the images; of a set of one's own without parts also "all", which leaves none to test on."""
    backbone: Backbone = Backbone()
    head: AnyHead = Projection()
    views: AnyViews = SimCLRViews()
    strength: AnySchedule = Constant(1.0)
    """Of the augmentation, over time."""
    optimizer: AnyOptimizer = LARS()
    lr: AnySchedule = WarmupCosine(peak=5.0, warmup=10)
    """Of learning, over time."""
    epochs: Count = 1000
    batch_size: Several = 512
    seed: Whole = 1
    teacher: str | None = None
    """An encoder to learn from, for the methods that do: simclr/cifar10, a run, a file."""
    start: str | None = None
    """An encoder whose weights to start from; "teacher" for the teacher's."""
    clusters: tuple[Several, ...] = ()
    """Into how many clusters the teacher's features are divided, to be pseudo-labels; one labelling for each number."""

    coreset: AnySelector | None = None
    """Which images an epoch sees, once the selector's warm-up is over; None: all of them, none set aside."""
    approximations: Approximations = field(default=Approximations(), metadata=LATER)

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ValueError("the test images are for the evaluation: an encoder that saw them proves nothing")
        if self.views.count != self.method.views:
            one = type(self.method).__name__
            raise ValueError(f"{one} takes {self.method.views} views of an image, not {self.views.count}")
        self.approximations.check(self.method, self.epochs)
        if self.clusters and min(self.clusters) < 2:
            raise ValueError(f"there have to be at least 2 clusters, not {min(self.clusters)}")
        if bool(self.clusters) != (self.method.labels == "clusters"):
            wants = "no pseudo-labels: leave --clusters out" if self.clusters else "pseudo-labels, of --clusters 10 say"
            raise ValueError(f"{self.name} learns from {wants}")
        looks_up = self.method.teacher == "frozen" or bool(self.clusters) or self.start == "teacher"
        if looks_up and not self.teacher:
            raise ValueError(f"{self.name} learns from an encoder: name it by --teacher, such as simclr/cifar10")
        if self.teacher and not looks_up:
            raise ValueError(f"{self.name} learns from no teacher; to begin with an encoder's weights, use --start")

    def build_network(self, classes: tuple[int, ...] = ()) -> Network:
        """h = g ∘ f as it is born: a function of the recipe alone, but for what it starts from.

        classes  of each labelling, for a head that classifies
        """

        def build() -> Network:
            encoder = self.backbone.build()
            return Network(encoder, self.head.build(encoder.features, classes))

        return with_routes(seeded(build, Key(self.seed) / "birth"), self.method.routes)
