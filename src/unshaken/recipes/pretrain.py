"""The recipe of a pre-training run: every choice as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from unshaken.base.ranges import Count, Natural, NonNegative, Several, Whole, ranged
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
from unshaken.nets.own_nets import allow
from unshaken.train.approximations import Approximations
from unshaken.train.averaging import AnyAveraging
from unshaken.train.best_weights import Best
from unshaken.train.guard import Guard
from unshaken.train.mixture import extra_set
from unshaken.train.optim import LARS, AnyOptimizer
from unshaken.transforms.views import AnyViews, SimCLRViews


def check_ghost_batch(images: int, batch: int) -> None:
    """Raise a ValueError unless ghost batches of so many images, or of none, are parts of a batch."""
    if images and not 2 <= images < batch:
        raise ValueError(
            f"--ghost-batch is 2 or more, and smaller than the batch of {batch} images, or 0 for statistics over the "
            f"whole batch; not {images}"
        )


@dataclass(frozen=True)
@ranged
class Pretrain:
    """The recipe of an encoder. Equal recipes give equal bits; the run's folder is named by the recipe's hash.

    `teacher` and `start` each name an encoder: a run's folder, an encoder file, or a recipe, which is then run first on
    the same images with the same seed. If weights are copied from an encoder, the recipe takes that encoder's network.
    """

    name: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "acl"
    """Name of the method. Runs and results are called by it, and fine-tuning takes its presets."""
    method: Method = ACL()
    """Method of pre-training: its loss, its attack and their hyper-parameters."""
    data: DataSource = DataSource("cifar10")
    """Training images. They are resized to --backbone.image-size, unless --data.size says otherwise."""
    extra: tuple[str, ...] = field(default=(), metadata=LATER)
    """More image sets, as images without labels: NAME or NAME:WEIGHT, such as synthetic:0.5, of which an epoch sees
    half. Each is a standard set or a path, and its training images are resized like those of --data. A second --data
    means the same."""
    split: str = "train"
    """Split of the data set to train on. Your own images without a test folder also have the split all, which holds out
    no test images."""
    backbone: Backbone = Backbone()
    """Network of the encoder."""
    head: AnyHead = Projection()
    """Layers between the encoder and the loss; they are dropped after pre-training."""
    views: AnyViews = SimCLRViews()
    """Random augmentation that makes the views of an image."""
    strength: AnySchedule = Constant(1.0)
    """Strength of the augmentation over the epochs, from 0 to 1."""
    optimizer: AnyOptimizer = LARS()
    """Optimizer of the weights."""
    lr: AnySchedule = WarmupCosine(peak=5.0, warmup=10)
    """Learning rate over the epochs."""
    epochs: Count = 1000
    """Passes over the training images."""
    batch_size: Several = 512
    """Images in a batch, each with all of its views."""
    seed: Whole = 1
    """Seed of all random numbers."""
    teacher: str | None = None
    """Encoder to learn from, for methods with a teacher: a run, a file, or a recipe such as simclr/cifar10."""
    start: str | None = None
    """Encoder whose weights are copied before the first step; teacher: copy the teacher's weights."""
    clusters: tuple[Several, ...] = ()
    """Numbers of clusters of the teacher's features. Each number gives one set of pseudo-labels."""
    coreset: AnySelector | None = None
    """Selector of the images that an epoch sees after the selector's warm-up. None: every epoch sees all images."""
    averaging: AnyAveraging | None = field(default=None, metadata=LATER)
    """Average of the weights that the run returns instead of the last ones: EMA or SWA. None: the last weights."""
    batch_norm: Literal["train", "frozen", "reestimate"] = field(default="train", metadata=LATER)
    """Statistics of the encoder's batch norms. train: of each batch, as usual; frozen: those of the encoder that a run
    starts from; reestimate: estimated on the training images before the first step, and frozen from then on."""
    ghost_batch: Natural = field(default=0, metadata=LATER)
    """Images over which batch norms take their statistics in training, each with all of its views: ghost batch norm, as
    papers had it that trained on several GPUs by DataParallel. 0: over the whole batch."""
    lora: Natural = field(default=0, metadata=LATER)
    """Rank of a low-rank branch beside each layer, which is trained instead of the weights and added to them at the
    end. 0: all weights are trained."""
    guard: Guard | None = field(default=None, metadata=LATER)
    """Guard against collapse and losses that are not finite: --guard Guard. None: such a run stops or goes on."""
    clip: NonNegative = field(default=0.0, metadata=LATER)
    """Largest norm of the gradient, of all weights together; a longer one is scaled down to it. 0: it is never clipped.
    LARS scales each layer's gradient by itself, so that clipping changes little there."""
    holdout: Natural = field(default=0, metadata=LATER)
    """Hold out about one training image in this many, on which the gauges are then taken. 0: none, and gauges are taken
    on training images."""
    keep: Best | None = field(default=None, metadata=LATER)
    """Keep the weights of the best epoch by held-out images and without labels: --keep Best, with --holdout. None:
    the last ones."""
    approximations: Approximations = field(default=Approximations(), metadata=LATER)
    """Cheaper attacks and smaller images, at a price in accuracy. By default there are none (docs/speed.md)."""

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, Backbone):
            raise ValueError(
                f"backbone is a Backbone, not a {type(self.backbone).__name__}: Backbone.of(...) makes one of it"
            )
        if self.backbone.own:
            allow(self.backbone.name)
        if self.holdout == 1:
            raise ValueError("holdout is 0, or 2 and more: one image in that many is held out; not 1")
        if self.split == "test":
            raise ValueError("the test images are for the evaluation: an encoder that has seen them proves nothing")
        self._check_extra()
        if self.views.count != self.method.views:
            one = type(self.method).__name__
            raise ValueError(f"{one} takes {self.method.views} views of an image, not {self.views.count}")
        self.approximations.check(self.method, self.epochs)
        if self.clusters and min(self.clusters) < 2:
            raise ValueError(f"there have to be at least 2 clusters, not {min(self.clusters)}")
        if bool(self.clusters) != (self.method.labels == "clusters"):
            wants = "no pseudo-labels: leave --clusters out" if self.clusters else "pseudo-labels: add --clusters 10"
            raise ValueError(f"{self.name} learns from {wants}")
        if self.guard and not self.method.score:
            raise ValueError(f"{self.name} has no score of a constant answer, so nothing can be guarded: no --guard")
        if self.batch_norm != "train" and not self.start:
            raise ValueError(
                f"--batch-norm {self.batch_norm} is for a run that starts from an encoder: name it by --start"
            )
        check_ghost_batch(self.ghost_batch, self.batch_size)
        if self.ghost_batch and self.batch_norm != "train":
            raise ValueError(f"batch norms that are {self.batch_norm} take no statistics: leave --ghost-batch out")
        needs_teacher = self.method.teacher == "frozen" or bool(self.clusters) or self.start == "teacher"
        if needs_teacher and not self.teacher:
            raise ValueError(f"{self.name} learns from an encoder: name it by --teacher, such as simclr/cifar10")
        if self.teacher and not needs_teacher:
            raise ValueError(f"{self.name} learns from no teacher; to copy an encoder's weights, use --start")

    def _check_extra(self) -> None:
        """Raise a ValueError unless the extra sets have names and weights, and the method can use them."""
        weights = [extra_set(word)[1] for word in self.extra]
        if weights and self.method.labels not in ("", "clusters"):
            raise ValueError(f"{self.name} learns from labels, and extra images have none: leave --extra out")
        if self.coreset and set(weights) - {1.0}:
            raise ValueError("a coreset is chosen among all images, of which each counts once: --extra without weights")

    def build_network(self, classes: tuple[int, ...] = ()) -> Network:
        """Build h = g ∘ f with its first random weights, which depend on the recipe alone.

        classes  number of classes of each set of labels, for a head that classifies
        """

        def build() -> Network:
            encoder = self.backbone.build()
            return Network(encoder, self.head.build(encoder.features, classes))

        return with_routes(seeded(build, Key(self.seed) / "birth"), self.method.routes)
