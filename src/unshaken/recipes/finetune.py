"""Fine-tuning: SLF, ALF and AFF as values, and the run that each names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unshaken.attacks.ball import Ball
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Natural, Several, Whole, ranged
from unshaken.base.schedule import AnySchedule, MultiStep
from unshaken.data.source import DataSource, known_as
from unshaken.methods.base import Method
from unshaken.methods.full import AFF
from unshaken.methods.linear import ALF, SLF
from unshaken.methods.tuning import AnyTuning
from unshaken.recipes.datasets import DATASETS, defaults_for
from unshaken.recipes.finetune_presets import FALLBACK, PRESETS, TRANSFER, Preset, preset, single
from unshaken.train.optim import SGD, AnyOptimizer
from unshaken.transforms.views import AnyTransform, CropFlip


@dataclass(frozen=True)
@ranged
class Finetune:
    """A classifier on an encoder. Each protocol is a recipe and a run of its own: nothing goes from one to the next."""

    method: AnyTuning = SLF()
    data: DataSource = DataSource("cifar10")
    views: AnyTransform = CropFlip()
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=2e-4)
    lr: AnySchedule = MultiStep(0.01, at=(10, 20))
    epochs: Count = 25
    batch_size: Several = 512
    holdout: Natural = 0
    """One training image in so many is kept aside, for choices that must not see test images (`evaluate --held-out`
    judges there): every so many-th of each class, of a set of one's own by each image's content; 0 keeps none."""
    seed: Whole = 1

    def __post_init__(self) -> None:
        if self.holdout < 0 or self.holdout == 1:
            raise ValueError(
                f"holdout is 0, or how many images of a class there are to one kept aside; not {self.holdout}"
            )
        if self.views.count != 1:
            raise ValueError(f"fine-tuning takes 1 view, not {self.views.count}")

    @property
    def mode(self) -> str:
        return type(self.method).__name__.lower()


MODES = ("slf", "alf", "aff")


@dataclass(frozen=True)
class Protocol:
    """Which row of the presets a fine-tuning takes: that of a method, from one set to another."""

    method: str
    origin: str
    target: str
    views: AnyTransform
    own: bool = False

    @classmethod
    def of(cls, method: str, origin: DataSource, source: DataSource, side: int, like: str | None = None) -> Protocol:
        """By what is asked: the paper's for known sets, by what pre-trained the encoder; for images of one's own one
        and the same for every encoder, so that encoders can be compared.

        method, origin  what pre-trained the encoder, and on which set
        side            of the images that the encoder reads, in pixels
        like            METHOD/SET in the place of method and origin, for images of one's own too
        """
        first, target, side = known_as(origin), known_as(source), source.size or side
        own = target not in DATASETS and like is None
        if like:
            method, first = named(like)
        large = side >= 224 or (first == "imagenet" and not own)  # what a side of 224 pixels needs
        views = DATASETS["imagenet"].weak_views if large else defaults_for(source).weak_views
        return cls(method, first, "stl10@32" if target == "stl10" and side == 32 else target, views, own)

    @property
    def words(self) -> str:
        if self.own:
            return "the same for every encoder on images of your own; --protocol METHOD/SET takes that of a paper"
        moved = f", from {self.origin}" if self.origin in TRANSFER else ""
        return f"that of {self.method}{moved} on {self.target}"

    def preset(self, mode: str, leaked: bool = False) -> Preset:
        if self.own and not leaked:
            return FALLBACK
        return preset(self.method, mode, self.target, leaked, self.origin)

    @property
    def one_route(self) -> bool:
        return not self.own and single(self.method, self.origin, self.target)


def named(like: str) -> tuple[str, str]:
    """The method and the set of a protocol by name. ValueError if there are no presets of that name."""
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
    """The field's choices for an encoder that a method pre-trained on one set, for the same or another set.

    side  of the images that the encoder reads, in pixels
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
