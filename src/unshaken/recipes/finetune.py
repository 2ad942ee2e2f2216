"""Fine-tuning: SLF, ALF and AFF as values, and the run that each names."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unshaken.attacks.ball import Ball
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Natural, Several, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Constant, MultiStep
from unshaken.base.serialize import to_json
from unshaken.compute.runtime import Runtime
from unshaken.data.image_digests import HOLD
from unshaken.data.images import Images
from unshaken.data.source import UNKNOWN, DataSource
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.base import Method, Step
from unshaken.methods.full import AFF
from unshaken.methods.linear import ALF, SLF
from unshaken.methods.tuning import AnyTuning
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import save_classifier
from unshaken.nets.dual_bn import merge_route, routes_of, single_route
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder, Network
from unshaken.recipes.datasets import DATASETS, ball_of, defaults_for, in_words, known_as, source_of
from unshaken.recipes.finetune_presets import FALLBACK, PRESETS, TRANSFER, Preset, preset, single
from unshaken.recipes.pretrain import check_images_fit, image_identity
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.train.batches import BatchStream
from unshaken.train.loop import fit
from unshaken.train.optim import SGD, AnyOptimizer
from unshaken.train.run_dir import Run
from unshaken.train.training_images import finetuned_on
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
                f"hold is 0, or how many images of a class there are to one kept aside; not {self.holdout}"
            )
        if self.views.count != 1:
            raise ValueError(f"fine-tuning takes 1 view, not {self.views.count}")

    @property
    def mode(self) -> str:
        return type(self.method).__name__.lower()

    def run(
        self,
        encoder: Path,
        root: Path | None = None,
        runtime: Runtime = Runtime(),
        save_every: float = 60,
        quiet: bool = False,
    ) -> Path:
        """Train, go on training, or find it done; beside the encoder unless `root` says otherwise.

        encoder  a pre-training run or an encoder file
        Returns the run's directory, with classifier.safetensors in it.
        """
        file = encoder_file(encoder)
        given = PretrainedEncoder.read(file)
        body, backbone, about = given.encoder, given.backbone, given.about
        images = self.images(backbone)
        data = {"images": image_identity(images), "encoder": given.identity, **runtime.identity}
        feed = BatchStream(
            images, self.views, Constant(1.0), self.batch_size, self.epochs, Key(self.seed) / self.mode, images.label
        )
        tell_eps(about["pretrain"]["recipe"], self.method, quiet)
        with Run.open(root or file.parent, f"{self.mode}-{images.name}", self, data) as run:
            finetuned_on(run.path, given.seen, images)
            if run.finished("classifier.safetensors"):
                return run.path
            fabric = run.compute(runtime)
            net = Network(self._prepared(body), zero_classifier(body.features, len(images.names))).to(fabric.device)
            step = Step(self.method, net)
            runtime.prepare(net)
            fit(step, feed.to(fabric.device), self.optimizer, self.lr, run, fabric, save_every, quiet)
            origin = {"finetune": {"recipe": to_json(self), "data": data}, "pretrain": about["pretrain"]}
            plain_net = merge_route(net, "adv")
            save_classifier(run.path / "classifier.safetensors", plain_net, backbone, images.names, origin)
            write_fingerprint(run.path)
            run.finish(plain_net, runtime.world(fabric.device))
            return run.path

    def images(self, backbone: Backbone, held_out: bool = False) -> Images:
        """What is trained on, or what is kept aside of it."""
        images = check_images_fit(
            replace(self.data, size=self.data.size or backbone.image_size).load("train"), backbone
        )
        if images.label is None:
            raise ValueError(
                f"{self.data.name} has no labels{f' ({images.reason})' if images.reason else ''}, and fine-tuning "
                "needs them; name a labelled set by --data"
            )
        if len(images.names) < 2:
            raise ValueError(f"{self.data.name} has one class, {images.names[0]!r}: there is nothing to tell apart")  # pyright: ignore[reportGeneralTypeIssues]
        if held_out and not self.holdout:
            raise ValueError("this run kept no images aside; fine-tune with --holdout 10, say")
        if not self.holdout:
            return images
        aside = self.data.aside(images, self.holdout, HOLD)
        if held_out and not aside.any():
            raise ValueError(
                f"of {len(images)} images none is kept aside by --holdout {self.holdout}: choose a smaller one"
            )
        return replace(
            images[(aside if held_out else ~aside).nonzero()[:, 0]], split="held-out" if held_out else "train"
        )

    def _prepared(self, encoder: Encoder) -> Encoder:
        """The routes that the method asks for: all of the encoder's, or the adversarial one alone.

        An encoder that never saw an attack has only the clean route, which then takes every image.
        """
        routes = routes_of(encoder)
        if set(self.method.routes) <= set(routes) and len(self.method.routes) > 1:
            return encoder
        return single_route(encoder, "adv")


MODES = ("slf", "alf", "aff")


def labelled(encoder: Path, data: str | None, size: int | None) -> DataSource:
    """The set that an encoder was pre-trained on, or another one, in its stored size or another."""
    file = encoder_file(encoder)
    recipe = PretrainedEncoder.read(file).about["pretrain"]["recipe"]
    if recipe["name"] == UNKNOWN:
        print(f"{file} does not say which method it is of: the presets are those of unknown ones", file=sys.stderr)
    known = source_of(recipe["data"], file.parent)
    source = replace(known, name=data, size=None, limit=None) if data else known
    return replace(source, size=size) if size else source


def tell_eps(pretrained: dict[str, Any], method: Method, quiet: bool) -> None:
    """Say it where an encoder was pre-trained against another adversary than it is fine-tuned against."""
    before, now = ball_of(pretrained.get("method")), ball_of(to_json(method))
    if before is not None and now is not None and before != now and not quiet:
        print(
            f"note: pre-trained at {in_words(before)}, and fine-tuned at {in_words(now)}, which goes with the set "
            "unless --method.attack.ball.eps says otherwise",
            file=sys.stderr,
        )


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
        views = DATASETS["imagenet"].weak if large else defaults_for(source).weak
        return cls(method, first, "stl10@32" if target == "stl10" and side == 32 else target, views, own)

    @classmethod
    def of_encoder(cls, encoder: PretrainedEncoder, source: DataSource, like: str | None = None) -> Protocol:
        """For a trained encoder, by what is noted about it."""
        pretrained = encoder.about["pretrain"]["recipe"]
        origin = DataSource(pretrained["data"]["name"])  # its name alone is asked for: nothing is opened
        return cls.of(pretrained["name"], origin, source, encoder.backbone.image_size, like)

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


def protocol(
    mode: str, encoder: Path, data: DataSource | None = None, leaked: bool = False, like: str | None = None
) -> Finetune:
    """The field's choices for a mode, for what pre-trained the encoder, on the same images or on others.

    leaked  with the epochs that the published AIR numbers were fine-tuned for in fact (presets.LEAKED)
    like    METHOD/SET: as for an encoder that this pre-trained
    """
    if mode not in MODES:
        raise ValueError(
            f"there is no mode {mode!r}; there are {', '.join(MODES)}, all for these three in turn, and autolora"
        )
    file = encoder_file(encoder)
    given = PretrainedEncoder.read(file)
    pretrained = given.about["pretrain"]["recipe"]
    origin = source_of(pretrained["data"], file.parent)
    return chosen(mode, pretrained["name"], origin, data or origin, given.backbone.image_size, leaked, like)


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
    full = AFF(replace(attack, start="gaussian"), beta=6.0, natural="adv" if one_route else "clean")
    return {"slf": SLF(), "alf": ALF(attack), "aff": full}[mode]
