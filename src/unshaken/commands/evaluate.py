"""`unshaken evaluate`: the exam of every fine-tuned classifier in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.data.source import Source
from unshaken.evaluate.exam import Exam
from unshaken.options import parse, subject
from unshaken.recipes.examine import exam_for, examine, tuned_on
from unshaken.report.table import show
from unshaken.train.runtime import Runtime

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Evaluation:
    """Judge fine-tuned classifiers on the test images: standard and robust accuracy."""

    exam: Annotated[Exam, Flat]
    data: Source
    """Whose test split; by default of the set that a run was fine-tuned on."""
    held_out: bool = False
    """Judge on the training images that fine-tuning kept aside (--hold), not on test images: for choices."""
    runtime: Runtime = Runtime()


def evaluate(args: list[str]) -> None:
    name, rest = subject(args, "evaluate", "RUN", "a fine-tuning run's folder, or a folder that holds several")
    results = []
    for run in fine_tuned(Path(name)):
        options = parse(Evaluation(exam_for(run), tuned_on(run)), rest, f"unshaken evaluate {name}")
        results.append(examine(run, options.exam, options.data, options.runtime, held_out=options.held_out))
    show(results)


def fine_tuned(path: Path) -> list[Path]:
    """The fine-tuning runs at or below a folder that have come to their end."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    runs = sorted(file.parent for file in path.rglob("run.json") if (file.parent / "classifier.safetensors").exists())
    if not runs:
        raise ValueError(f"there is no finished fine-tuning run in {path}; `unshaken finetune ENCODER` makes one")
    return runs
