"""Pre-training: every choice as one value, and the run that it names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from unshaken.base.canon import plain
from unshaken.base.clock import Constant, Schedule, WarmupCosine
from unshaken.base.keys import Key
from unshaken.data.images import Images
from unshaken.data.source import Source
from unshaken.methods.acl import ACL
from unshaken.methods.method import Method, Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.embed import Network, born
from unshaken.nets.heads import Projection
from unshaken.nets.routed import routed
from unshaken.nets.saved import save_encoder
from unshaken.pixels.augment import SimCLR, Transform
from unshaken.train.feed import Feed
from unshaken.train.fit import fit
from unshaken.train.optim import LARS, Optimizer
from unshaken.train.run import Run
from unshaken.train.runtime import Runtime


@dataclass(frozen=True)
class Pretrain:
    """An encoder from images, labels unseen. Equal values, equal bits: the run is named by their hash."""

    name: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "acl"
    """Of the paper's method: runs and results are called by it, and presets of fine-tuning go by it."""
    method: Method = ACL()
    data: Source = Source("cifar10")
    """Images are brought to the side that backbone.stem is for, unless data.size says otherwise."""
    split: str = "train"
    backbone: Backbone = Backbone()
    head: Projection = Projection()
    views: Transform = SimCLR()
    strength: Schedule = Constant(1.0)
    """Of the augmentation, over time."""
    optimizer: Optimizer = LARS()
    rate: Schedule = WarmupCosine(peak=5.0, warmup=10)
    """Of learning, over time."""
    epochs: int = 1000
    batch: int = 512
    seed: int = 1

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ValueError("the test images are for the exam: an encoder that saw them proves nothing")
        if self.views.count != 2:
            raise ValueError(f"contrastive methods take 2 views, not {self.views.count}")

    def embedder(self) -> Network:
        """h = g ∘ f as it is born: a function of the recipe alone."""

        def build() -> Network:
            encoder = self.backbone.build()
            return Network(encoder, self.head.build(encoder.features))

        return routed(born(build, Key(self.seed) / "birth"), self.method.routes)

    def run(
        self, root: Path = Path("runs"), runtime: Runtime = Runtime(), save_every: float = 60, quiet: bool = False
    ) -> Path:
        """Train, or go on training, or find it done. Returns the run's directory, with encoder.safetensors in it.

        Raises ValueError for a user's mistake, Stopped after a signal (a checkpoint is then written).
        """
        images = fitting(replace(self.data, size=self.data.size or self.backbone.stem).load(self.split), self.backbone)
        feed = Feed(images, self.views, self.strength, self.batch, self.epochs, Key(self.seed) / "pretrain")
        data = {"images": met(images), "precision": runtime.precision}
        with Run.open(root, f"{self.name}-{slug(self.data)}", self, data) as run:
            if run.finished("encoder.safetensors"):
                return run.path
            fabric = runtime.open()
            step = Step(self.method, self.embedder().to(fabric.device))
            runtime.prepare(step.net)
            fit(step, feed.to(fabric.device), self.optimizer, self.rate, run, fabric, save_every, quiet)
            origin = {"recipe": plain(self), "data": data}
            save_encoder(run.path / "encoder.safetensors", step.net.encoder, self.backbone, {"pretrain": origin})
            run.finish(step.net, runtime.world(fabric.device))
            return run.path


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
