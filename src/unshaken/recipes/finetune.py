"""The recipe of a fine-tuning run: SLF, ALF or AFF, with the field's hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from unshaken.attacks.ball import Ball
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Natural, NonNegative, Several, Whole, ranged
from unshaken.base.schedule import AnySchedule, MultiStep
from unshaken.base.serialize import LATER
from unshaken.data.source import DataSource, standard_name
from unshaken.methods.base import Method
from unshaken.methods.supervised import AFF, ALF, SLF
from unshaken.methods.tuning import AnyTuning
from unshaken.recipes.datasets import DATASETS, defaults_for
from unshaken.recipes.finetune_presets import FALLBACK, PRESETS, TRANSFER, Preset, preset, single
from unshaken.recipes.pretrain import check_ghost_batch
from unshaken.train.averaging import AnyAveraging
from unshaken.train.best_weights import Best
from unshaken.train.optim import SGD, AnyOptimizer
from unshaken.transforms.views import AnyTransform, CropFlip


@dataclass(frozen=True)
@ranged
class Finetune:
    """The recipe of a classifier on an encoder. Each mode is a run of its own, and shares no setting."""

    method: AnyTuning = SLF()
    """Mode: which weights are trained, and on which images."""
    data: DataSource = DataSource("cifar10")
    """Labelled training images."""
    views: AnyTransform = CropFlip()
    """Random augmentation of the images."""
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=2e-4)
    """Optimizer of the weights."""
    lr: AnySchedule = MultiStep(0.01, at=(10, 20))
    """Learning rate over the epochs."""
    epochs: Count = 25
    """Passes over the training images."""
    batch_size: Several = 512
    """Images in a batch."""
    holdout: Natural = 0
    """Hold out one in this many training images of each class, for choices that must not use test images: `evaluate
    --held-out` evaluates on them. 0 holds out none."""
    seed: Whole = 1
    """Seed of all random numbers."""
    averaging: AnyAveraging | None = field(default=None, metadata=LATER)
    """Average of the weights that the run returns instead of the last ones: EMA or SWA. None: the last weights."""
    clip: NonNegative = field(default=0.0, metadata=LATER)
    """Largest norm of the gradient, of all weights together; a longer one is scaled down to it. 0: no clipping."""
    ghost_batch: Natural = field(default=0, metadata=LATER)
    """Images over which batch norms take their statistics in training: ghost batch norm, as papers had it that trained
    on several GPUs by DataParallel. 0: over the whole batch."""

    keep: Best | None = field(default=None, metadata=LATER)
    """Keep the weights of the best epoch by robust accuracy on held-out images: --keep Best, with --holdout. None:
    the last ones."""

    def __post_init__(self) -> None:
        if self.holdout < 0 or self.holdout == 1:
            raise ValueError(f"holdout is 0, or 2 and more: one image in that many is held out; not {self.holdout}")
        check_ghost_batch(self.ghost_batch, self.batch_size)
        if self.ghost_batch and "encoder" in self.method.frozen:
            raise ValueError(f"{self.mode} trains no batch norm: --ghost-batch is for aff")
        if self.views.count != 1:
            raise ValueError(f"fine-tuning takes 1 view, not {self.views.count}")

    @property
    def mode(self) -> str:
        return type(self.method).__name__.lower()


MODES = ("slf", "alf", "aff")


@dataclass(frozen=True)
class Protocol:
    """The row of the presets for a fine-tuning: the method, the set of its pre-training, the set to fine-tune on."""

    method: str
    origin: str
    target: str
    views: AnyTransform
    own: bool = False

    @classmethod
    def of(cls, method: str, origin: DataSource, source: DataSource, side: int, like: str | None = None) -> Protocol:
        """Find the protocol: the paper's for a known set. A user's own images have one protocol for every encoder,
        so that encoders can be compared.

        method, origin  the method that pre-trained the encoder, and its data set
        side            side in pixels of the images that the encoder reads
        like            METHOD/SET to use instead of method and origin, for a user's own images too
        """
        first, target, side = standard_name(origin), standard_name(source), source.size or side
        own = target not in DATASETS and like is None
        if like:
            method, first = named(like)
        large = side >= 224 or (first == "imagenet" and not own)  # images of 224 pixels need a resized crop
        views = DATASETS["imagenet"].weak_views if large else defaults_for(source).weak_views
        return cls(method, first, "stl10@32" if target == "stl10" and side == 32 else target, views, own)

    @property
    def words(self) -> str:
        """The protocol in words, as `unshaken finetune` prints it."""
        if self.own:
            return "the same for every encoder on images of your own; --protocol METHOD/SET takes that of a paper"
        moved = f", from {self.origin}" if self.origin in TRANSFER else ""
        return f"that of {self.method}{moved} on {self.target}"

    def preset(self, mode: str, leaked: bool = False) -> Preset:
        """The hyper-parameters of a mode; leaked: with the epochs of the published runs."""
        if self.own and not leaked:
            return FALLBACK
        return preset(self.method, mode, self.target, leaked, self.origin)

    @property
    def one_route(self) -> bool:
        """True if the authors fine-tune the adversarial route alone."""
        return not self.own and single(self.method, self.origin, self.target)


def named(like: str) -> tuple[str, str]:
    """Split METHOD/SET. Raises ValueError if there are no presets of that name."""
    method, slash, data = like.partition("/")
    if method not in PRESETS or not slash or data not in DATASETS:
        raise ValueError(
            f"--protocol is clean, leaked, or METHOD/SET such as acl/cifar10, of {', '.join(PRESETS)} and of "
            f"{', '.join(DATASETS)}; not {like!r}"
        )
    return method, data


def chosen(
    mode: str,
    name: str,
    origin: DataSource,
    source: DataSource,
    side: int,
    leaked: bool = False,
    like: str | None = None,
) -> Finetune:
    """The field's recipe for an encoder: `name` pre-trained it on `origin`, and it is fine-tuned on `source`.

    side    side in pixels of the images that the encoder reads
    leaked  take the epochs that the published AIR numbers were fine-tuned for in fact
    like    METHOD/SET whose protocol to use, whatever pre-trained this encoder
    """
    row = Protocol.of(name, origin, source, side, like)
    choice = row.preset(mode, leaked)
    return Finetune(
        _method(mode, defaults_for(source).ball, row.one_route),
        source,
        row.views,
        choice.optimizer,
        lr=choice.schedule,
        epochs=choice.epochs,
        batch_size=choice.batch_size,
    )


def _method(mode: str, ball: Ball, one_route: bool) -> Method:
    attack = PGD(ball, steps=10)
    full = AFF(replace(attack, init="gaussian"), beta=6.0, natural="adv" if one_route else "clean")
    return {"slf": SLF(), "alf": ALF(attack), "aff": full}[mode]
