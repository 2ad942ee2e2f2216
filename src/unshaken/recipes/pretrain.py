"""Pre-training: every choice as one value, and the run that it names."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor, nn

from unshaken.base.ranges import Count, Several, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Constant, WarmupCosine
from unshaken.base.serialize import LATER, to_json
from unshaken.compute.runtime import Runtime
from unshaken.coreset.selectors import AnySelector
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method, Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import save_encoder
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import AnyHead, Projection
from unshaken.nets.network import Network, seeded
from unshaken.runs.encoder import PretrainedEncoder, resolve_encoder
from unshaken.train.approximations import Approximations
from unshaken.train.batches import BatchStream
from unshaken.train.coreset_training import fit_on_coresets
from unshaken.train.loop import fit
from unshaken.train.optim import LARS, AnyOptimizer
from unshaken.train.run_dir import Run
from unshaken.train.training_images import pretrained_on
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
    """Images are brought to the side that backbone.stem is for, unless data.size says otherwise."""
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
            raise ValueError("the test images are for the exam: an encoder that saw them proves nothing")
        if self.views.count != self.method.views:
            one = type(self.method).__name__
            raise ValueError(f"{one} takes {self.method.views} views of an image, not {self.views.count}")
        self.approximations.check(self.method, self.epochs)
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

        return with_routes(seeded(build, Key(self.seed) / "birth"), self.method.routes)

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
        teacher = (
            PretrainedEncoder.read(resolve_encoder(self.teacher, self, *resources, network=lends))
            if self.teacher
            else None
        )
        start = teacher if self.start == "teacher" else None
        if self.start and not start:
            start = PretrainedEncoder.read(resolve_encoder(self.start, self, *resources, network=True))
        model = start or (teacher if lends else None)
        if model and model.backbone != self.backbone:
            print(f"{self.name}: the network is that of the encoder it begins with, {model.backbone}", file=sys.stderr)
            return replace(self, backbone=model.backbone).run(*resources, profile)
        images = self._images(self.backbone)
        data = {"images": image_identity(images), **runtime.identity}
        data |= {role: given.identity for role, given in (("teacher", teacher), ("start", start)) if given}
        with Run.open(root, f"{self.name}-{slug(self.data)}", self, data) as run:
            pretrained_on(run.path, images, [given.seen for given in (teacher, start) if given])
            if run.finished("encoder.safetensors"):
                return run.path
            fabric = run.compute(runtime)
            images = images.to(fabric.device)
            label, classes = self._labels(images, teacher, run.path)
            key = Key(self.seed) / "pretrain"
            feed = BatchStream(images, self.views, self.strength, self.batch_size, self.epochs, key, label)
            feed = replace(feed, side=self.approximations.side, replays=self.approximations.replays)
            net = self.furnished(self.embedder(classes), teacher, start)
            self.approximations.fit(net.encoder, *images.pixels.shape[1:3], self.epochs)  # pyright: ignore[reportCallIssue]
            net = net.to(fabric.device)
            runtime.prepare(net)
            step, feed = Step(self.approximations.at_work(self.method), net), feed.to(fabric.device)  # pyright: ignore[reportArgumentType]
            course = (step, feed, self.optimizer, self.lr, run, fabric, save_every, quiet, profile)
            fit(*course) if self.coreset is None else fit_on_coresets(self.coreset, *course)
            origin = {"recipe": to_json(self), "data": data}
            origin |= {"teacher": teacher.about["pretrain"]} if teacher else {}
            kept = net.teacher if self.method.teacher == "moving" else net
            save_encoder(run.path / "encoder.safetensors", kept.encoder, self.backbone, {"pretrain": origin})
            write_fingerprint(run.path)
            run.finish(net, runtime.world(fabric.device))
            return run.path

    def images(self) -> Images:
        """The images that are trained on, in the size that the network reads."""
        return self._images(self.backbone)

    def _images(self, backbone: Backbone) -> Images:
        return check_images_fit(
            replace(self.data, size=self.data.size or backbone.image_size).load(self.split), backbone
        )

    def _labels(
        self, images: Images, teacher: PretrainedEncoder | None, folder: Path
    ) -> tuple[Tensor | None, tuple[int, ...]]:
        """What the method learns from, (N) or (N, L), and how many classes each labelling has."""
        if self.method.labels == "clusters":
            if teacher.backbone.image_size != self.backbone.image_size:  # it looks at the same images in its own size
                images = self._images(teacher.backbone).to(images.device)
            check_images_fit(images, teacher.backbone)
            file, key = folder / "pseudo-labels.safetensors", Key(self.seed) / "clusters"
            return teacher.clusters(file, images, self.clusters, key), self.clusters
        if self.method.labels == "":
            return None, ()
        if images.label is None:
            raise ValueError(f"{self.name} learns from labels, and {self.data.name} ({self.split}) has none")
        return images.label, (len(images.names),)

    def furnished(self, net: Network, teacher: PretrainedEncoder | None, start: PretrainedEncoder | None) -> Network:
        """The network with the weights to start from, and with its teacher."""
        if start:
            start.lend(net.encoder)
        if self.method.teacher == "given":
            net.teacher = Network(teacher.plain(), nn.Identity())
        elif self.method.teacher == "moving":
            net.teacher = copy.deepcopy(net)
        return net


def image_identity(images: Images) -> dict[str, Any]:
    """Which images these are, for a result to say."""
    return {"name": images.name, "split": images.split, "n": len(images), "digest": images.digest}


def check_images_fit(images: Images, backbone: Backbone) -> Images:
    """The same images, if the network can read them."""
    channels, side = images.pixels.shape[1], images.pixels.shape[-1]
    if channels != backbone.channels:
        raise ValueError(
            f"{images.name} has {channels} channel(s) but the network reads {backbone.channels}; "
            "set --backbone.channels (and --backbone.mean, --backbone.std, one a channel)"
        )
    if backbone.image_size > 32 and side < 33:
        raise ValueError(
            f"a stem for {backbone.image_size} pixels leaves nothing of images of {side}; set --backbone.image-size 32"
        )
    return images


def slug(source: DataSource) -> str:
    """The name of a data set as part of a directory's name."""
    word = Path(source.name).stem or "images"
    return "".join(c if c.isalnum() else "-" for c in word.lower()).strip("-")[:32] or "images"
