"""`unshaken evaluate` and `unshaken compare`: accuracy under attack; a test of two results."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.attacks.own import attack_named
from unshaken.base.amounts import amount
from unshaken.base.launchers import launched
from unshaken.base.progress import format_duration
from unshaken.base.ranges import Natural, Positive, ranged
from unshaken.base.shard import Shard
from unshaken.commands.children import evaluate_on_devices
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result_names import write_means
from unshaken.evaluation.zero_shot import zero_shot_classifier
from unshaken.options import flag_groups, parse, subject, take_option
from unshaken.report import compare as comparison
from unshaken.report.records import TableOptions, print_records
from unshaken.report.table import show
from unshaken.runs import evaluate as evaluation_run
from unshaken.runs.evaluate import default_evaluation, finetuning_data, is_saved_model
from unshaken.runs.evaluation_trial import evaluation_lines, evaluation_record
from unshaken.runs.trial import scratch
from unshaken.runs.workspace import Workspace
from unshaken.train.image_sets import slug

Flat = tyro.conf.arg(name="")
PUBLISHED = ("timm/", "torchvision/")


@dataclass(frozen=True)
@ranged
class EvaluateOptions(TableOptions):
    """Measure the standard and robust accuracy of classifiers on test images.

    Every verdict is saved as it is reached: the same command resumes an evaluation that was stopped.

    With --attack mine.py:attack an attack of your own takes the place of PGD: a function, an object or a class.
    """

    evaluation: Annotated[Evaluation, Flat]
    """The measurements."""
    data: DataSource
    """Data set whose test split is used; by default the one of the fine-tuning."""
    full: bool = False
    """Add AutoAttack, and the fifteen common corruptions at five severities."""
    classes: Path | None = None
    """JSON file for a published network: for each class of the images its logit, by number or by name. It is needed if
    the folders' names are neither class names nor WordNet ids."""
    class_embeddings: Path | None = None
    """Class embeddings for zero-shot classification by an encoder, as `unshaken text-embeddings` writes them."""
    scale: Positive | None = None
    """Factor of the cosine in zero-shot logits; by default that of the class embeddings' file, else 100."""
    any_encoder: bool = False
    """Accept class embeddings that were made for another encoder, or whose encoder is not known."""
    held_out: bool = False
    """Evaluate on the training images that fine-tuning held out (--holdout), for choices that must not use test
    images."""
    allow_seen: bool = False
    """Evaluate even if the run was trained on some of the test images; such an accuracy proves nothing."""
    examples: Natural = 0
    """Write this many adversarial images beside the result: as a picture, with their answers, and as safetensors."""
    shard: str = "1/1"
    """Share of the work: run 1/2 and 2/2 in two processes. The last one to finish writes the result.
    --runtime.devices 2 starts both, and processes of torchrun or srun take a share each."""
    dry_run: bool = False
    """Print the plan without evaluating: images, stages, the expected time from measured attacks, and memory. No file
    is written."""
    runtime: Runtime = Runtime()
    """Device and precision. With bf16 attacks search in bf16; every answer is float32."""


def evaluate(args: list[str]) -> int:
    what = "a fine-tuning run's folder, a folder of several, a classifier file, OWNER/NAME on the Hub, or timm/NAME"
    name, rest = subject(args, "evaluate", "RUN", what, EvaluateOptions(Evaluation(), DataSource("cifar10")))
    code, rest = evaluate_on_devices(name, rest)
    if code:
        return code
    attack, rest = take_option(rest, "--attack")  # its code runs if it is typed, not if a file says it
    if name.startswith(PUBLISHED) and not Path(name).exists():
        result, options = published(name, rest, attack)
        if result is not None:
            show([result], form=options)
        return 0
    by_names = any(group[0] == "--class-embeddings" for group in flag_groups(rest))
    if by_names or is_saved_model(name):
        result, options = zero_shot(name, rest, attack) if by_names else saved(name, rest, attack)
        if result is not None:
            show([result], form=options)
        return 0
    runs = fine_tuned(Path(name))
    # A mistake in the options concerns all runs, so it is found once, before the first run.
    options = parse(EvaluateOptions(Evaluation(), DataSource("cifar10")), rest, f"unshaken evaluate {name}")
    evaluated, found, wrong = evaluate_all(runs, rest, name, attack)
    if len(evaluated) == len(runs) and not options.held_out:
        write_means(runs, found)
    if found:
        show(found, form=options)
    if found and not wrong and not options.for_programs and options.shard == "1/1":  # of shares, the parent says it
        total = format_duration(sum(result["seconds"]["evaluation"] or 0 for result in found))
        print(f"{amount(len(found), 'result')} in {total} of attacks and answers", file=sys.stderr)
        print(f"next: unshaken doctor {runs[0]}; unshaken report {name} --html report.html", file=sys.stderr)
    if wrong:
        print(f"unshaken: {len(wrong)} of {len(runs)} runs could not be evaluated", file=sys.stderr)
    return 2 if wrong else 0


def evaluate_one(
    options: EvaluateOptions, model: Path | Classifier, images: Images | None = None, attack: str | None = None
) -> dict | None:
    """Evaluate a run or a classifier. None while other shards are missing, and for a dry run.

    attack  the name of an attack of the user's own, in the place of PGD
    """
    evaluation, shard = options.evaluation.full if options.full else options.evaluation, Shard.read(options.shard)
    group = launched()
    if group is not None and shard.count == 1:
        shard = Shard(group.rank + 1, group.count)
    if attack is not None:
        evaluation = replace(evaluation, attack=attack_named(attack, evaluation.attack.ball))
    if options.dry_run:
        plan_of(model, images or options.data, evaluation, options)
        return None
    return evaluation_run.evaluate(
        model,
        images or options.data,
        evaluation,
        Workspace(runtime=options.runtime),
        held_out=options.held_out,
        shard=shard,
        allow_seen=options.allow_seen,
        examples=options.examples,
    )


def plan_of(
    model: Path | Classifier, images: Images | DataSource, evaluation: Evaluation, options: EvaluateOptions
) -> None:
    """Print the work of an evaluation and its expected time. Decoded copies of the images are not kept."""
    subject = model if isinstance(model, Classifier) else Classifier.of_run(model)
    if isinstance(images, DataSource):
        with scratch(images) as source:
            images = subject.images(source, options.held_out)
    record = evaluation_record(subject, images, evaluation, options.runtime)
    if options.for_programs:
        print_records([record], options)
    else:
        print("\n".join(evaluation_lines(record, evaluation)))


def evaluate_all(
    runs: list[Path], rest: list[str], name: str, attack: str | None
) -> tuple[list[Path], list[dict], list[str]]:
    """Evaluate runs. Returns those with a result, the results, and a line about each failure.

    A single run raises its error instead.
    """
    evaluated, results, wrong = [], [], []
    for run in runs:
        try:
            options = parse(
                EvaluateOptions(default_evaluation(run), finetuning_data(run)), rest, f"unshaken evaluate {name}"
            )
            if options.classes:
                raise ValueError("--classes is for published networks: a run's classes are those it was fine-tuned on")
            result = evaluate_one(options, run, attack=attack)
        except (ValueError, OSError) as error:
            if len(runs) == 1:
                raise
            wrong.append(f"{run}: {' '.join(str(error).split())}")
            print(f"unshaken: {wrong[-1]}", file=sys.stderr)
            continue
        if result is not None:
            evaluated.append(run)
            results.append(result)
    return evaluated, results, wrong


def published(name: str, rest: list[str], attack: str | None) -> tuple[dict | None, EvaluateOptions]:
    """Evaluate a network of timm or torchvision on a user's images. Returns its result and the options."""
    if not any(group[0] in ("--data.name", "--help", "-h") for group in flag_groups(rest)):
        raise ValueError(f"{name} has no images of its own: name a set with its classes by --data")
    default = EvaluateOptions(Evaluation(), DataSource(""))
    source = parse(default, rest, f"unshaken evaluate {name}").data
    options = parse(replace(default, evaluation=default_evaluation(source)), rest, f"unshaken evaluate {name}")
    classifier, side = Classifier.of_name(name)
    images = classifier.images(replace(source, size=source.size or side))
    classifier = replace(classifier, folder=classifier.folder / slug(source))
    if images.names:
        classifier = classifier.for_classes(images.names, options.classes)
    return evaluate_one(options, classifier, images, attack), options


def zero_shot(name: str, rest: list[str], attack: str | None) -> tuple[dict | None, EvaluateOptions]:
    """Evaluate an encoder as a zero-shot classifier of a user's images."""
    if not any(group[0] in ("--data.name", "--help", "-h") for group in flag_groups(rest)):
        raise ValueError("an encoder has no labelled images of its own: name a set with its classes by --data")
    default = EvaluateOptions(Evaluation(), DataSource(""))
    source = parse(default, rest, f"unshaken evaluate {name}").data
    options = parse(replace(default, evaluation=default_evaluation(source)), rest, f"unshaken evaluate {name}")
    how = {"scale": options.scale, "any_encoder": options.any_encoder}
    classifier, backbone = zero_shot_classifier(Path(name), options.class_embeddings, **how)  # pyright: ignore[reportArgumentType]
    images = classifier.images(replace(source, size=source.size or backbone.image_size))
    classifier = replace(classifier, folder=classifier.folder / slug(source))
    if images.names:
        classifier = classifier.for_classes(images.names, options.classes)
    return evaluate_one(options, classifier, images, attack), options


def saved(name: str, rest: list[str], attack: str | None) -> tuple[dict | None, EvaluateOptions]:
    """Evaluate an exported or downloaded classifier. Returns its result and the options."""
    classifier = Classifier.of_file(name)
    default = EvaluateOptions(default_evaluation(classifier.source), classifier.source)
    source = parse(default, rest, f"unshaken evaluate {name}").data
    options = parse(replace(default, evaluation=default_evaluation(source)), rest, f"unshaken evaluate {name}")
    if options.classes:
        raise ValueError("--classes is for published networks: a classifier's classes are those it was fine-tuned on")
    return evaluate_one(options, classifier, attack=attack), options


@dataclass(frozen=True)
class CompareOptions(TableOptions):
    """Test if two results on the same images differ by more than chance: an exact paired test of each score."""

    results: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Two result files, or two folders of runs with one result each."""
    anyway: bool = False
    """Compare even classifiers that were fine-tuned by different protocols."""


def compare(args: list[str]) -> None:
    options = parse(CompareOptions(), args, "unshaken compare")
    if len(options.results) != 2:
        raise ValueError("`unshaken compare` needs two results: A.json B.json, or the folders of two runs")
    found = comparison.compare(*options.results, anyway=options.anyway)
    if options.for_programs:
        print_records(
            [{"score": each} if isinstance(each, str) else asdict(each) | {"p": each.p} for each in found], options
        )
        return
    for line in found:
        print(line if isinstance(line, str) else line.line())


def fine_tuned(path: Path) -> list[Path]:
    """The finished fine-tuning runs at or below a folder."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    runs = sorted(file.parent for file in path.rglob("run.json") if (file.parent / "classifier.safetensors").exists())
    if not runs:
        raise ValueError(f"there is no finished fine-tuning run in {path}; `unshaken finetune ENCODER` makes one")
    return runs
