"""`unshaken evaluate`, `compare`: the evaluation of classifiers, and whether two results differ by more than chance."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.shard import Shard
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result_names import write_means
from unshaken.options import flag_groups, parse, subject
from unshaken.report import compare as comparison
from unshaken.report.table import show
from unshaken.runs import evaluate as evaluation_run
from unshaken.runs.evaluate import default_evaluation, finetuning_data
from unshaken.train.image_sets import slug

Flat = tyro.conf.arg(name="")
PUBLISHED = ("timm/", "torchvision/")


@dataclass(frozen=True)
class EvaluateOptions:
    """Judge classifiers on test images: standard and robust accuracy.

    What was judged is kept, verdict by verdict: the same command goes on where it was stopped.
    """

    evaluation: Annotated[Evaluation, Flat]
    data: DataSource
    """Whose test split; by default of the set that a run was fine-tuned on."""
    full: bool = False
    """All that there is: AutoAttack and the fifteen common corruptions at five severities too."""
    classes: Path | None = None
    """Of a published network: a file in JSON that says which of its logits each of the images' classes is, by number or
    by name. Needed where the folders are not called by class names or WordNet ids."""
    held_out: bool = False
    """Judge on the training images that fine-tuning kept aside (--holdout), not on test images: for choices."""
    allow_seen: bool = False
    """Judge even on images of your own that the run has learned from; such an accuracy proves nothing."""
    shard: str = "1/1"
    """1/2 and 2/2, in two processes, share the work; the one that ends last writes the result."""
    runtime: Runtime = Runtime()
    """With --runtime.precision bf16 attacks look for adversarial images in that; every answer is float32."""


def evaluate(args: list[str]) -> int:
    what = "a fine-tuning run's folder, a folder that holds several, or timm/NAME"
    name, rest = subject(args, "evaluate", "RUN", what, EvaluateOptions(Evaluation(), DataSource("cifar10")))
    if name.startswith(PUBLISHED) and not Path(name).exists():
        show([result for result in [published(name, rest)] if result is not None])
        return 0
    runs = fine_tuned(Path(name))
    # a mistake in the options is one of all runs, and is said once
    options = parse(EvaluateOptions(Evaluation(), DataSource("cifar10")), rest, f"unshaken evaluate {name}")
    mine, found, wrong = all_judged(runs, rest, name)
    if len(mine) == len(runs) and not options.held_out:
        write_means(runs, found)
    if found:
        show(found)
    if wrong:
        print(f"unshaken: {len(wrong)} of {len(runs)} runs could not be judged", file=sys.stderr)
    return 2 if wrong else 0


def judged(options: EvaluateOptions, model: Path | Classifier, images: Images | None = None) -> dict | None:
    evaluation, shard = options.evaluation.full if options.full else options.evaluation, Shard.read(options.shard)
    given, seen = images or options.data, options.allow_seen
    how = {"held_out": options.held_out, "shard": shard, "allow_seen": seen}
    return evaluation_run.evaluate(model, given, evaluation, Workspace(runtime=options.runtime), **how)


def all_judged(runs: list[Path], rest: list[str], name: str) -> tuple[list[Path], list[dict], list[str]]:
    """The runs that were judged, their results, and what is wrong with the others; one run alone raises it."""
    judged_runs, results, wrong = [], [], []
    for run in runs:
        try:
            options = parse(
                EvaluateOptions(default_evaluation(run), finetuning_data(run)), rest, f"unshaken evaluate {name}"
            )
            if options.classes:
                raise ValueError("--classes is for published networks: a run's classes are those it was fine-tuned on")
            result = judged(options, run)
        except (ValueError, OSError) as error:
            if len(runs) == 1:
                raise
            wrong.append(f"{run}: {' '.join(str(error).split())}")
            print(f"unshaken: {wrong[-1]}", file=sys.stderr)
            continue
        if result is not None:
            judged_runs.append(run)
            results.append(result)
    return judged_runs, results, wrong


def published(name: str, rest: list[str]) -> dict | None:
    """A network of timm's or torchvision's, on a user's images."""
    if not any(group[0] in ("--data.name", "--help", "-h") for group in flag_groups(rest)):
        raise ValueError(f"{name} has no images of its own: name a set with its classes by --data")
    default = EvaluateOptions(Evaluation(), DataSource(""))
    source = parse(default, rest, f"unshaken evaluate {name}").data
    options = parse(replace(default, evaluation=default_evaluation(source)), rest, f"unshaken evaluate {name}")
    candidate, side = Classifier.of_name(name)
    images = candidate.images(replace(source, size=source.size or side))
    candidate = replace(candidate, folder=candidate.folder / slug(source))
    return judged(options, candidate.facing(images.names, options.classes) if images.names else candidate, images)


@dataclass(frozen=True)
class CompareOptions:
    """Whether two results on the same images differ by more than chance: a paired, exact test of each score."""

    results: tyro.conf.Positional[tuple[Path, ...]] = ()
    """A and B: result files, or folders of runs that hold one each."""
    anyway: bool = False
    """Compare classifiers that were fine-tuned by unlike protocols too."""


def compare(args: list[str]) -> None:
    options = parse(CompareOptions(), args, "unshaken compare")
    if len(options.results) != 2:
        raise ValueError("`unshaken compare` needs two results: A.json B.json, or the folders of two runs")
    for line in comparison.compare(*options.results, anyway=options.anyway):
        print(line if isinstance(line, str) else line.line())


def fine_tuned(path: Path) -> list[Path]:
    """The fine-tuning runs at or below a folder that have come to their end."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    runs = sorted(file.parent for file in path.rglob("run.json") if (file.parent / "classifier.safetensors").exists())
    if not runs:
        raise ValueError(f"there is no finished fine-tuning run in {path}; `unshaken finetune ENCODER` makes one")
    return runs
