"""A trial: some real steps of a run, measured, and what they say about its time and memory"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from unshaken.base.amounts import amount, weights_in_words
from unshaken.base.progress import format_duration
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.compute.runtime import Runtime, measured_memory, multiplies_bf16
from unshaken.data.images import Images
from unshaken.data.source import STANDARD, DataSource
from unshaken.methods.base import Step
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.computation import passes_of, with_computation
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.runs.finetune import first_network, training_of
from unshaken.runs.speeds import most_steps, pretrain_speed
from unshaken.train.attack_policy import with_attack_steps
from unshaken.train.batches import BatchStream
from unshaken.train.computation_trial import chosen_computation
from unshaken.train.image_sets import load_images, load_labelled
from unshaken.train.mixture import extra_set
from unshaken.train.throughput import Speed, step_speed
from unshaken.train.workload import HOUR

SECONDS = 4.0
"""The most seconds of steps that are timed."""
MOST = 512
"""Images of a user's own set that a trial decodes; the others are counted."""


@dataclass(frozen=True)
class Trial:
    """The measured speed of a run's steps, and its work.

    images  training images of an epoch
    exact   all of them were read; otherwise their number is estimated
    speed   of the measured steps
    passes  passes over the images in all: the epochs, or fewer on a coreset
    memory  peak memory of the trial in GB
    where   how the images are kept, if the user should know
    """

    name: str
    data: str
    side: int
    images: int
    exact: bool
    epochs: int
    batch_size: int
    passes: float
    weights: int
    runtime: Runtime
    speed: Speed
    memory: float
    where: str = ""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        full, left = divmod(self.images, self.batch_size)
        return full + (left > 1) if full else 1

    @property
    def epoch_seconds(self) -> float:
        return self.images / self.speed.images_s

    @property
    def seconds(self) -> float:
        """Expected seconds of the run."""
        return self.passes * self.epoch_seconds + self.speed.startup

    def record(self) -> dict[str, Any]:
        """Return the work, its expected time and its memory as plain numbers."""
        return {
            "name": self.name,
            "data": self.data,
            "pixels": self.side,
            "images": self.images,
            "images_are_counted": self.exact,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "steps": self.epochs * self.steps,
            "weights": self.weights,
            "device": self.runtime.kind,
            "precision": self.runtime.precision,
            "images_per_second": round(self.speed.images_s, 1),
            "epoch_seconds": round(self.epoch_seconds, 1),
            "seconds": round(self.seconds, 1),
            "memory_gb": round(self.memory, 2),
        }

    def lines(self) -> list[str]:
        """Describe the work, its expected time and its memory."""
        about, batch = "" if self.exact else "about ", min(self.batch_size, self.images)
        work = f"{amount(self.epochs, 'epoch')} of {amount(self.steps, 'step')} of {amount(batch, 'image')}"
        how = f"{weights_in_words(self.weights)}, {self.runtime.precision} on {self.runtime.kind}"
        small = "" if self.speed.batch >= batch else f"; the run's batches of {batch:,} take more"
        return [
            f"{self.name}: {about}{amount(self.images, 'image')} of {self.side} pixels ({self.data}); {work}; {how}",
            f"measured: {self.speed.images_s:,.1f} images/s; the first step took {self.speed.startup:.1f} s",
            f"expected: about {format_duration(self.seconds)}, {self.epoch_seconds:,.1f} s an epoch",
            f"memory: {self.memory:.1f} GB at most in the trial, with batches of {self.speed.batch:,}{small}",
            *([f"images: {self.where}"] if self.where else []),
        ]


@contextmanager
def scratch(source: DataSource) -> Iterator[DataSource]:
    """Lend the images with another place for decoded copies, which is removed afterwards: nothing else is written.

    Copies that are there already are read.
    """
    root = Path(source.root).expanduser().absolute()
    with TemporaryDirectory() as folder:
        (Path(folder) / "cache").mkdir()
        for file in [*root.glob("*"), *root.glob("cache/*")] if root.is_dir() else []:
            if file != root / "cache":
                (Path(folder) / file.relative_to(root)).symlink_to(file)
        yield replace(source, root=folder)


def some_images(source: DataSource, load: Callable[[DataSource], Images], split: str) -> tuple[Images, int | None]:
    """Return training images for a trial, and their estimated number in all if these are only the first of them."""
    if source.name in STANDARD or source.given is not None or source.limit is not None:
        return load(source), None
    images = load(replace(source, limit=MOST))
    return images, source.estimated(split) if len(images) == MOST else None


def some_training_images(recipe: Pretrain) -> tuple[Images, int | None]:
    """Return training images for a trial, as `some_images` does; their number includes the extra images of an epoch."""
    with scratch(recipe.data) as source:
        images, count = some_images(source, lambda few: load_images(few, recipe.split, recipe.backbone), recipe.split)
        for name, weight in map(extra_set, recipe.extra):
            other = replace(source, name=name, limit=None, given=None)
            size = len(other.load()) if other.name in STANDARD else other.estimated("train")
            count = (count or len(images)) + round(weight * size)
    return images, count


def pretrain_plan(recipe: Pretrain, runtime: Runtime) -> tuple[Trial, list[str]]:
    """Measure a pre-training, and return notes on what is not measured and what would be cheaper. Writes nothing."""
    images, count = some_training_images(recipe)
    runtime, lines = with_computation(recipe, images, runtime, count)
    trial = pretrain_trial(recipe, runtime, images, count)
    return trial, [*lines, *notes_on(recipe, trial), *single_step(recipe, trial, images)]


def pretrain_trial(recipe: Pretrain, runtime: Runtime, images: Images, count: int | None = None) -> Trial:
    """Measure some steps of a pre-training, from new weights.

    count  the estimated number of its images, if these are some of them
    """
    fabric = runtime.open()
    memory = measured_memory(fabric.device)
    speed = pretrain_speed(recipe, images, runtime, SECONDS)
    weights = weights_of(recipe.build_network((2,) * len(recipe.clusters)))
    total, exact = count or len(images), count is None and not recipe.holdout
    total -= total // recipe.holdout if recipe.holdout else 0
    return Trial(
        recipe.name, f"{images.name}, {images.split}", images.pixels.shape[-1], total, exact,
        recipe.epochs, recipe.batch_size, passes_of(recipe), weights, runtime, speed, memory(),
        recipe.data.where(count or len(images), images.pixels.shape[-1]),
    )  # fmt: skip


def notes_on(recipe: Pretrain, trial: Trial) -> list[str]:
    """Return what the expected time leaves out, and what would be cheaper, with its time."""
    notes = []
    if recipe.coreset is not None:
        notes.append("not in it: the selections of the coreset, which were not measured")
    if recipe.teacher and not Path(recipe.teacher).exists() and recipe.teacher.partition("/")[0] in RECIPES:
        notes.append(f"not in it: the teacher, {recipe.teacher}, which is trained first if there is no finished run")
    if trial.seconds > HOUR:
        fits = int((HOUR - trial.speed.startup) / trial.epoch_seconds * recipe.epochs / trial.passes)
        notes.append(f"cheaper: --epochs {fits:,} takes about an hour" if fits else "an epoch takes over an hour")
    if recipe.name + "-rcs" in RECIPES:
        notes.append(
            f"cheaper: unshaken pretrain {recipe.name}-rcs, on a fifth of the images at a time (docs/speed.md)"
        )
    if trial.runtime.precision == "float32" and multiplies_bf16(trial.runtime.kind):
        notes.append("cheaper: --runtime.precision auto, which is bf16 where that is faster")
    return notes


def single_step(recipe: Pretrain, trial: Trial, images: Images) -> list[str]:
    """Measure the recipe with attacks of one step, and say what they would save."""
    own = most_steps(recipe.method)
    if own < 2:
        return []
    quick = pretrain_speed(replace(recipe, method=with_attack_steps(recipe.method, 1)), images, trial.runtime, SECONDS)
    total = format_duration(trial.passes * trial.images / quick.images_s)
    return [
        f"cheaper: attacks of 1 step instead of {own} (--approximations.steps.value {1 / own:g}) take about {total}"
    ]


def finetune_trial(encoder: Path, recipe: Finetune, runtime: Runtime) -> Trial:
    """Measure some steps of a fine-tuning by SLF, ALF or AFF. No copy of the images is kept."""
    given = PretrainedEncoder.read(encoder_file(encoder))
    with scratch(recipe.data) as source:
        load = partial(load_labelled, backbone=given.backbone, holdout=recipe.holdout)
        images, count = some_images(source, load, "train")
    if recipe.holdout and count is not None:
        count -= count // recipe.holdout
    runtime, _ = chosen_computation(training_of(recipe, given, images, count), runtime)
    fabric = runtime.open()
    memory = measured_memory(fabric.device)
    net = first_network(recipe, given, len(images.names)).to(fabric.device)
    runtime.prepare(net)
    feed = BatchStream(
        images, recipe.views, Constant(1.0), recipe.batch_size, recipe.epochs, Key(recipe.seed) / "trial", images.label
    )  # fmt: skip
    speed = step_speed(Step(recipe.method, net), feed.to(fabric.device), recipe.optimizer, SECONDS)
    return Trial(
        recipe.mode, f"{images.name}, train, labelled", images.pixels.shape[-1], count or len(images), count is None,
        recipe.epochs, recipe.batch_size, recipe.epochs, weights_of(net), runtime, speed, memory(),
        recipe.data.where(count or len(images), images.pixels.shape[-1]),
    )  # fmt: skip


def weights_of(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
