"""Pre-training: every choice as one value, and the run that it names."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor, nn

from unshaken.base.canon import LATER, plain
from unshaken.base.clock import AnySchedule, Constant, WarmupCosine
from unshaken.base.keys import Key
from unshaken.base.ranges import Count, Several, Whole, ranged
from unshaken.coreset.selectors import AnySelector
from unshaken.data.images import Images
from unshaken.data.source import Source
from unshaken.exchange.fingerprint import stamped
from unshaken.methods.acl import ACL
from unshaken.methods.method import Method, Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.embed import Network, born
from unshaken.nets.heads import AnyHead, Projection
from unshaken.nets.routed import routed
from unshaken.nets.saved import save_encoder
from unshaken.pixels.augment import AnyViews, SimCLR
from unshaken.recipes.origin import Given, begun
from unshaken.recipes.seen import pretrained_on
from unshaken.recipes.subset import fit_on_coresets
from unshaken.train.feed import Feed
from unshaken.train.fit import fit
from unshaken.train.optim import LARS, AnyOptimizer
from unshaken.train.run import Run
from unshaken.train.runtime import Runtime
from unshaken.train.savings import Savings


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
    data: Source = Source("cifar10")
    """Images are brought to the side that backbone.stem is for, unless data.size says otherwise."""
    split: str = "train"
    """Of the images; of a set of one's own without parts also "all", which leaves none to test on."""
    backbone: Backbone = Backbone()
    head: AnyHead = Projection()
    views: AnyViews = SimCLR()
    strength: AnySchedule = Constant(1.0)
    """Of the augmentation, over time."""
    optimizer: AnyOptimizer = LARS()
    rate: AnySchedule = WarmupCosine(peak=5.0, warmup=10)
    """Of learning, over time."""
    epochs: Count = 1000
    batch: Several = 512
    seed: Whole = 1
    teacher: str | None = None
    """An encoder to learn from, for the methods that do: simclr/cifar10, a run, a file."""
    start: str | None = None
    """An encoder whose weights to start from; "teacher" for the teacher's."""
    clusters: tuple[Several, ...] = ()
    """Into how many clusters the teacher's features are divided, to be pseudo-labels; one labelling for each number."""

    coreset: AnySelector | None = None
    """Which images an epoch sees, once the selector's warm-up is over; None: all of them, none set aside."""
    savings: Savings = field(default=Savings(), metadata=LATER)

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ValueError("the test images are for the exam: an encoder that saw them proves nothing")
        if self.views.count != self.method.views:
            one = type(self.method).__name__
            raise ValueError(f"{one} takes {self.method.views} views of an image, not {self.views.count}")
        self.savings.check(self.method, self.epochs)
        if self.clusters and min(self.clusters) < 2:
            raise ValueError(f"there have to be at least 2 clusters, not {min(self.clusters)}")
        if bool(self.clusters) != (self.method.labels == "clusters"):
            wants = "no pseudo-labels: leave --clusters out" if self.clusters else "pseudo-labels, of --clusters 10 say"
            raise ValueError(f"{self.name} learns from {wants}")
        looks_up = self.method.teacher == "given" or bool(self.clusters) or self.start == "teacher"
        if looks_up and not self.teacher:
            raise ValueError(f"{self.name} learns from an encoder: name it by --teacher, such as simclr/cifar10")
        if self.teacher and not looks_up:
            raise ValueError(f"{self.name} learns from no teacher; to begin with an encoder's weights, use --start")

    def embedder(self, classes: tuple[int, ...] = ()) -> Network:
        """h = g ∘ f as it is born: a function of the recipe alone, but for what it starts from.

        classes  of each labelling, for a head that classifies
        """

        def build() -> Network:
            encoder = self.backbone.build()
            return Network(encoder, self.head.build(encoder.features, classes))

        return routed(born(build, Key(self.seed) / "birth"), self.method.routes)

    def run(
        self,
        root: Path = Path("runs"),
        runtime: Runtime = Runtime(),
        save_every: float = 60,
        quiet: bool = False,
        profile: int = 0,
    ) -> Path:
        """Train, or go on training, or find it done. Returns the run's directory, with encoder.safetensors in it.

        Raises ValueError for a user's mistake, Stopped after a signal (a checkpoint is then written).
        """
        resources = (root, runtime, save_every, quiet)
        lends = self.method.teacher == "given" or self.start == "teacher"
        teacher = Given.read(begun(self.teacher, self, *resources, network=lends)) if self.teacher else None
        start = teacher if self.start == "teacher" else None
        if self.start and not start:
            start = Given.read(begun(self.start, self, *resources, network=True))
        model = start or (teacher if lends else None)
        if model and model.backbone != self.backbone:
            print(f"{self.name}: the network is that of the encoder it begins with, {model.backbone}", file=sys.stderr)
            return replace(self, backbone=model.backbone).run(*resources, profile)
        images = self._images(self.backbone)
        data = {"images": met(images), **runtime.identity}
        data |= {role: given.identity for role, given in (("teacher", teacher), ("start", start)) if given}
        with Run.open(root, f"{self.name}-{slug(self.data)}", self, data) as run:
            pretrained_on(run.path, images, [given.seen for given in (teacher, start) if given])
            if run.finished("encoder.safetensors"):
                return run.path
            fabric = run.compute(runtime)
            images = images.to(fabric.device)
            label, classes = self._labels(images, teacher, run.path)
            key = Key(self.seed) / "pretrain"
            feed = Feed(images, self.views, self.strength, self.batch, self.epochs, key, label)
            feed = replace(feed, side=self.savings.side, replays=self.savings.replays)
            net = self.furnished(self.embedder(classes), teacher, start)
            self.savings.fit(net.encoder, *images.pixels.shape[1:3], self.epochs)  # pyright: ignore[reportCallIssue]
            net = net.to(fabric.device)
            runtime.prepare(net)
            step, feed = Step(self.savings.at_work(self.method), net), feed.to(fabric.device)  # pyright: ignore[reportArgumentType]
            course = (step, feed, self.optimizer, self.rate, run, fabric, save_every, quiet, profile)
            fit(*course) if self.coreset is None else fit_on_coresets(self.coreset, *course)
            origin = {"recipe": plain(self), "data": data}
            origin |= {"teacher": teacher.about["pretrain"]} if teacher else {}
            kept = net.teacher if self.method.teacher == "moving" else net
            save_encoder(run.path / "encoder.safetensors", kept.encoder, self.backbone, {"pretrain": origin})
            stamped(run.path)
            run.finish(net, runtime.world(fabric.device))
            return run.path

    def images(self) -> Images:
        """The images that are trained on, in the size that the network reads."""
        return self._images(self.backbone)

    def _images(self, backbone: Backbone) -> Images:
        return fitting(replace(self.data, size=self.data.size or backbone.stem).load(self.split), backbone)

    def _labels(self, images: Images, teacher: Given | None, folder: Path) -> tuple[Tensor | None, tuple[int, ...]]:
        """What the method learns from, (N) or (N, L), and how many classes each labelling has."""
        if self.method.labels == "clusters":
            if teacher.backbone.stem != self.backbone.stem:  # it looks at the same images in its own size
                images = self._images(teacher.backbone).to(images.device)
            fitting(images, teacher.backbone)
            file, key = folder / "pseudo-labels.safetensors", Key(self.seed) / "clusters"
            return teacher.clusters(file, images, self.clusters, key), self.clusters
        if self.method.labels == "":
            return None, ()
        if images.label is None:
            raise ValueError(f"{self.name} learns from labels, and {self.data.name} ({self.split}) has none")
        return images.label, (len(images.names),)

    def furnished(self, net: Network, teacher: Given | None, start: Given | None) -> Network:
        """The network with the weights to start from, and with its teacher."""
        if start:
            start.lend(net.encoder)
        if self.method.teacher == "given":
            net.teacher = Network(teacher.plain(), nn.Identity())
        elif self.method.teacher == "moving":
            net.teacher = copy.deepcopy(net)
        return net


def met(images: Images) -> dict[str, Any]:
    """Which images these are, for a result to say."""
    return {"name": images.name, "split": images.split, "n": len(images), "digest": images.digest}


def fitting(images: Images, backbone: Backbone) -> Images:
    """The same images, if the network can read them."""
    channels, side = images.pixels.shape[1], images.pixels.shape[-1]
    if channels != backbone.channels:
        raise ValueError(
            f"{images.name} has {channels} channel(s) but the network reads {backbone.channels}; "
            "set --backbone.channels (and --backbone.mean, --backbone.std, one a channel)"
        )
    if backbone.stem > 32 and side < 33:
        raise ValueError(
            f"a stem for {backbone.stem} pixels leaves nothing of images of {side}; set --backbone.stem 32"
        )
    return images


def slug(source: Source) -> str:
    """The name of a data set as part of a directory's name."""
    word = Path(source.name).stem or "images"
    return "".join(c if c.isalnum() else "-" for c in word.lower()).strip("-")[:32] or "images"
