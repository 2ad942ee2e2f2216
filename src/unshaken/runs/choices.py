"""Choices for a user's own images: epochs and batch that suit the set and the machine, and the faster precision"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from unshaken.base.amounts import amount
from unshaken.base.json_files import read_json, write_json
from unshaken.base.json_shapes import Items, Whole
from unshaken.base.progress import format_duration
from unshaken.base.serialize import short_hash
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import STANDARD
from unshaken.recipes.autolora import AutoFinetune
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.plan import with_epochs
from unshaken.runs.speeds import faster_precision
from unshaken.runs.trial import SECONDS, Trial, finetune_trial, notes_on, pretrain_trial
from unshaken.train.image_sets import slug
from unshaken.train.mixture import load_training
from unshaken.train.workload import HOUR

STEPS = 10
"""The fewest steps of an epoch that a batch leaves, as for the digits, whose batch of 128 was chosen by accuracy."""
SMALLEST = 32
SHAPE = {"epochs": Whole(1), "batch_size": Whole(2), "precision": str, "lines": Items(str)}
"""The shape of a file of choices."""


@dataclass(frozen=True)
class Choice:
    """The values chosen for a recipe that leaves them open, the lines that say why, and the trial if it is new."""

    epochs: int
    batch_size: int
    precision: str
    lines: tuple[str, ...] = ()
    trial: Trial | None = None

    def apply(self, asked: Pretrain, runtime: Runtime) -> tuple[Pretrain, Runtime]:
        sized = replace(asked, batch_size=self.batch_size)
        recipe = sized if self.epochs == asked.epochs else with_epochs(sized, self.epochs)
        return recipe, runtime if self.precision == runtime.precision else replace(runtime, precision=self.precision)


def is_open(asked: Pretrain, typed: Collection[str], runtime: Runtime) -> bool:
    """Return whether something is left to choose: epochs or batch of a user's own images, or the precision."""
    own = asked.data.name not in STANDARD or asked.data.given is not None
    return runtime.by_trial or own and not {"epochs", "batch_size"} <= {*typed}


def remembered(
    asked: Pretrain, typed: Collection[str], runtime: Runtime, root: Path, hours: float, quiet: bool = False
) -> tuple[Pretrain, Runtime]:
    """Choose what is left open, or take the choice of an earlier command, so that the same command resumes its run.

    typed  the fields of the recipe that the user has set; they stay as they are
    root   the folder of runs, in which the choice is kept
    """
    if not is_open(asked, typed, runtime):
        return asked, runtime
    key = short_hash([asked, sorted(typed), hours, runtime.precision, runtime.by_trial])
    file = root / f"choice-{asked.name}-{slug(asked.data)}-{key}.json"
    if file.exists():
        found = read_json(file, SHAPE)
        choice = Choice(found["epochs"], found["batch_size"], found["precision"], tuple(found["lines"]))
        if not quiet:
            print(f"{file} has the choices of an earlier command, which are kept:", file=sys.stderr)
    else:
        images, mixture = load_training(asked.data, asked.split, asked.backbone, asked.extra)
        choice = choose(asked, typed, runtime, hours, images, None if mixture is None else len(mixture))
        kept = {name: value for name, value in vars(choice).items() if name in SHAPE}
        write_json(file, kept | {"lines": list(choice.lines)})
    if not quiet:
        print("\n".join(choice.lines), file=sys.stderr)
    return choice.apply(asked, runtime)


def remembered_precision(
    encoder: Path, recipe: Finetune | AutoFinetune, runtime: Runtime, root: Path
) -> tuple[Runtime, list[str]]:
    """Return the faster precision for a fine-tuning where `auto` has two, with a line about it; it is kept in root."""
    if not runtime.by_trial or isinstance(recipe, AutoFinetune):
        return runtime, []
    file = root / f"choice-{recipe.mode}-{short_hash(recipe)}.json"
    if file.exists():
        found = read_json(file, {"precision": ("bf16", "float32"), "lines": Items(str)})
    else:
        tried = {name: replace(runtime, precision=name) for name in ("bf16", "float32")}
        speeds = {name: finetune_trial(encoder, recipe, how).speed.images_s for name, how in tried.items()}
        best = max(speeds, key=lambda name: speeds[name])
        said = ", ".join(f"{name} {speed:,.1f} images/s" for name, speed in speeds.items())
        found = {
            "precision": best,
            "lines": [f"chosen: {best} is the faster precision for {recipe.mode} here ({said})"],
        }
        write_json(file, found)
    return replace(runtime, precision=found["precision"]), found["lines"]


def choose(
    asked: Pretrain,
    typed: Collection[str],
    runtime: Runtime,
    hours: float,
    images: Images,
    count: int | None = None,
) -> Choice:
    """Choose batch, precision and epochs by the number of images and by a trial on this machine.

    count  the estimated number of images, if these are only some of them
    """
    own = asked.data.name not in STANDARD or asked.data.given is not None
    recipe, why = asked, []
    if own and "batch_size" not in typed and (batch := suited_batch(count or len(images), asked.batch_size)):
        recipe = replace(recipe, batch_size=batch)
        why.append(
            f"batches of {batch} instead of {asked.batch_size}, so that an epoch of few images has steps enough; the "
            "rate is kept, as digits have it (--batch-size, --lr)"
        )
    if runtime.by_trial:
        runtime, notes = faster_precision(recipe, images, runtime, SECONDS, lambda _: None)
        why += notes
    trial = pretrain_trial(recipe, runtime, images, count)
    if own and "epochs" not in typed:
        epochs = fitting(hours * HOUR - trial.speed.startup, trial.seconds - trial.speed.startup, recipe.epochs)
        if epochs < recipe.epochs:
            fits = "and even one takes longer than" if trial.epoch_seconds > hours * HOUR else "which fit into"
            why.append(
                f"{amount(epochs, 'epoch')} instead of the paper's {recipe.epochs:,}, which would take "
                f"{format_duration(trial.seconds)} on this machine, as busy as it is now; {fits} "
                f"{format_duration(hours * HOUR)} (--hours 8 chooses for another time, --epochs sets them)"
            )
            recipe = with_epochs(recipe, epochs)
            trial = replace(trial, epochs=epochs, passes=trial.passes * epochs / asked.epochs)
    lines = [*trial.lines(), *(f"chosen: {line}" for line in why), *notes_on(recipe, trial)]
    return Choice(recipe.epochs, recipe.batch_size, runtime.precision, tuple(lines), trial)


def suited_batch(images: int, batch: int) -> int | None:
    """Return a smaller batch, a power of two, that leaves STEPS steps an epoch; None if the batch does that already."""
    if images >= STEPS * batch:
        return None
    suited = batch
    while suited > SMALLEST and images < STEPS * suited:
        suited //= 2
    return suited if suited < batch else None


def fitting(seconds: float, whole: float, epochs: int) -> int:
    """Return how many of the epochs fit if all take `whole` seconds, rounded down to two digits; at least one."""
    fit = min(epochs, int(epochs * seconds / whole)) if whole > 0 else epochs
    if fit >= epochs or fit < 100:
        return max(1, fit)
    tens = 10 ** (len(str(fit)) - 2)
    return fit // tens * tens
