"""Choices for a user's own images: epochs and batch that suit the set and the machine"""

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
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.computation import as_begun, with_computation
from unshaken.runs.plan import with_epochs
from unshaken.runs.trial import Trial, notes_on, pretrain_trial
from unshaken.train.image_sets import slug
from unshaken.train.mixture import load_training
from unshaken.train.workload import HOUR

STEPS = 10
"""The fewest steps of an epoch that a batch leaves, as for the digits, whose batch of 128 was chosen by accuracy."""
SMALLEST = 32
SHAPE = {
    "epochs": Whole(1), "batch_size": Whole(2), "precision": str, "computation?": Items(str), "lines": Items(str)
}  # fmt: skip
"""The shape of a file of choices."""


@dataclass(frozen=True)
class Choice:
    """The values chosen for a recipe that leaves them open, the lines that say why, and the trial if it is new.

    runtime  with the precision and the computation that were timed
    """

    epochs: int
    batch_size: int
    runtime: Runtime
    lines: tuple[str, ...] = ()
    trial: Trial | None = None

    def apply(self, asked: Pretrain) -> Pretrain:
        sized = replace(asked, batch_size=self.batch_size)
        return sized if self.epochs == asked.epochs else with_epochs(sized, self.epochs)


def is_open(asked: Pretrain, typed: Collection[str]) -> bool:
    """Return whether epochs or batch are left to choose, for a user's own images."""
    own = asked.data.name not in STANDARD or asked.data.given is not None
    return own and not {"epochs", "batch_size"} <= {*typed}


def remembered(
    asked: Pretrain, typed: Collection[str], runtime: Runtime, root: Path, hours: float, quiet: bool = False
) -> tuple[Pretrain, Runtime]:
    """Choose what is left open, or take the choice of an earlier command, so that the same command resumes its run.

    typed  the fields of the recipe that the user has set; they stay as they are
    root   the folder of runs, in which the choice is kept
    """
    if not is_open(asked, typed):
        return asked, runtime
    pinned = [] if runtime.computation == ("auto",) else [runtime.computation]
    key = short_hash([asked, sorted(typed), hours, runtime.precision, runtime.by_trial, *pinned])
    file = root / f"choice-{asked.name}-{slug(asked.data)}-{key}.json"
    if file.exists():
        found = read_json(file, SHAPE)
        runtime = as_begun(runtime, found)
        choice = Choice(found["epochs"], found["batch_size"], runtime, tuple(found["lines"]))
        if not quiet:
            print(f"{file} has the choices of an earlier command, which are kept:", file=sys.stderr)
    else:
        images, mixture = load_training(asked.data, asked.split, asked.backbone, asked.extra)
        choice = choose(asked, typed, runtime, hours, images, None if mixture is None else len(mixture))
        kept = {"epochs": choice.epochs, "batch_size": choice.batch_size, "lines": list(choice.lines)}
        how = {"precision": choice.runtime.precision, "computation": list(choice.runtime.computation)}
        write_json(file, kept | how)
    if not quiet:
        print("\n".join(choice.lines), file=sys.stderr)
    return choice.apply(asked), choice.runtime


def choose(
    asked: Pretrain,
    typed: Collection[str],
    runtime: Runtime,
    hours: float,
    images: Images,
    count: int | None = None,
) -> Choice:
    """Choose batch, computation and epochs by the number of images and by trials on this machine.

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
    runtime, notes = with_computation(recipe, images, runtime, count)
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
    lines = [*trial.lines(), *notes, *(f"chosen: {line}" for line in why), *notes_on(recipe, trial)]
    return Choice(recipe.epochs, recipe.batch_size, runtime, tuple(lines), trial)


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
