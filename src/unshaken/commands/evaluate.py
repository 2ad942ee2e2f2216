"""`unshaken evaluate`, `compare`: the exam of classifiers, and whether two results differ by more than chance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.shard import Shard
from unshaken.data.source import Source
from unshaken.evaluate.exam import Exam
from unshaken.options import grouped, parse, subject
from unshaken.recipes.candidate import Candidate
from unshaken.recipes.examine import exam_for, examine, tuned_on, write_means
from unshaken.recipes.pretrain import slug
from unshaken.report.compare import compared
from unshaken.report.table import results_in, show
from unshaken.train.runtime import Runtime

Flat = tyro.conf.arg(name="")
PUBLISHED = ("timm/", "torchvision/")


@dataclass(frozen=True)
class Evaluation:
    """Judge classifiers on test images: standard and robust accuracy.

    What was judged is kept, verdict by verdict: the same command goes on where it was stopped.
    """

    exam: Annotated[Exam, Flat]
    data: Source
    """Whose test split; by default of the set that a run was fine-tuned on."""
    full: bool = False
    """All that there is: AutoAttack and the fifteen common corruptions at five severities too."""
    held_out: bool = False
    """Judge on the training images that fine-tuning kept aside (--hold), not on test images: for choices."""
    shard: str = "1/1"
    """1/2 and 2/2, in two processes, share the work; the one that ends last writes the result."""
    runtime: Runtime = Runtime()
    """With --runtime.precision bf16 attacks look for adversarial images in that; every answer is float32."""


def evaluate(args: list[str]) -> None:
    what = "a fine-tuning run's folder, a folder that holds several, or timm/NAME"
    name, rest = subject(args, "evaluate", "RUN", what, Evaluation(Exam(), Source("cifar10")))
    if name.startswith(PUBLISHED) and not Path(name).exists():
        show([result for result in [published(name, rest)] if result is not None])
        return
    runs, results, refused = fine_tuned(Path(name)), {}, []
    asked = parse(Evaluation(Exam(), Source("cifar10")), rest, f"unshaken evaluate {name}")  # a mistake here stops all
    for run in runs:
        try:
            options = parse(Evaluation(exam_for(run), tuned_on(run)), rest, f"unshaken evaluate {name}")
            results[run] = judged(options, run)
        except ValueError as error:  # of one run; the others are judged all the same
            if len(runs) == 1:
                raise
            refused.append(f"{run}: {error}")
    if found := {run: result for run, result in results.items() if result is not None}:
        if len(found) == len(results) and not asked.held_out:
            write_means(list(found), list(found.values()))
        show(list(found.values()))
    if refused:
        raise ValueError(f"{len(refused)} of {len(runs)} runs were not judged: {'; '.join(refused)}")


def judged(options: Evaluation, model: Path | Candidate, side: int | None = None) -> dict | None:
    data = replace(options.data, size=options.data.size or side)
    exam = options.exam.full if options.full else options.exam
    return examine(
        model, data, exam, runtime=options.runtime, held_out=options.held_out, shard=Shard.read(options.shard)
    )


def published(name: str, rest: list[str]) -> dict | None:
    """A network of timm's or torchvision's, on a user's images."""
    if not any(group[0] in ("--data.name", "--help", "-h") for group in grouped(rest)):
        raise ValueError(f"{name} has no images of its own: name a set with its classes by --data")
    default = Evaluation(Exam(), Source(""))
    source = parse(default, rest, f"unshaken evaluate {name}").data
    options = parse(replace(default, exam=exam_for(source)), rest, f"unshaken evaluate {name}")
    candidate, side = Candidate.of_name(name)
    candidate = replace(candidate, folder=candidate.folder / slug(source))
    return judged(options, candidate, side)


@dataclass(frozen=True)
class Comparing:
    """Whether two results on the same images differ by more than chance: a paired, exact test of each score."""

    results: tyro.conf.Positional[tuple[Path, ...]] = ()
    """A and B: result files, or folders of runs that hold one each."""


def compare(args: list[str]) -> None:
    options = parse(Comparing(), args, "unshaken compare")
    if len(options.results) != 2:
        raise ValueError("`unshaken compare` needs two results: A.json B.json, or the folders of two runs")
    a, b = (results_in([path]) for path in options.results)
    if many := next((path for path, found in zip(options.results, (a, b), strict=True) if len(found) > 1), None):
        raise ValueError(f"there is more than one result in {many}: name the file")
    for line in compared(a[0], b[0]):
        print(line if isinstance(line, str) else line.line())


def fine_tuned(path: Path) -> list[Path]:
    """The fine-tuning runs at or below a folder that have come to their end."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    runs = sorted(file.parent for file in path.rglob("run.json") if (file.parent / "classifier.safetensors").exists())
    if not runs:
        raise ValueError(f"there is no finished fine-tuning run in {path}; `unshaken finetune ENCODER` makes one")
    return runs
