"""Evaluation of a classifier: result.json, and the log that readers of the papers expect."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from unshaken.attacks.ball import ball_of, in_words
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_text
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.base.shard import Shard
from unshaken.data.images import Images
from unshaken.data.source import DataSource, source_of
from unshaken.diagnostics.doctor import cheap, thorough
from unshaken.diagnostics.subject import Finding, ModelUnderTest
from unshaken.evaluation.classifier import Classifier, PreparedClassifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import paper_log, result_of
from unshaken.evaluation.result_names import file_suffix, log_name, verdict_suffix, with_earlier_answers, write_result
from unshaken.evaluation.stages import through
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.nets.network import frozen
from unshaken.recipes.datasets import defaults_for
from unshaken.runs.workspace import Workspace
from unshaken.train.image_sets import image_identity
from unshaken.train.training_images import check_unseen

CHECKED = 64
"""Images that the checks look at."""


def default_evaluation(data: DataSource | Path) -> Evaluation:
    """PGD-20 at the ε that goes with a data set, or with the one that a run was fine-tuned on."""
    return Evaluation(PGD(defaults_for(data if isinstance(data, DataSource) else finetuning_data(data)).ball, steps=20))


def finetuning_data(run: Path) -> DataSource:
    """What a fine-tuning run took its labels from."""
    recipe = read_json(run / "recipe.json").get("recipe", {})
    if "data" not in recipe:
        raise ValueError(f"{run / 'recipe.json'} is not of a fine-tuning run")
    return source_of(recipe["data"], run)


def evaluate(
    classifier: Path | str | Callable[[Tensor], Any] | Classifier,
    images: Images | DataSource | tuple[Any, Any] | None = None,
    evaluation: Evaluation | None = None,
    workspace: Workspace = Workspace(),
    *,
    name: str = "model",
    held_out: bool = False,
    shard: Shard = Shard(),
    allow_seen: bool = False,
) -> dict[str, Any] | None:
    """Measure clean, adversarial and corrupted accuracy on labelled images, with a verdict for each image.

    classifier  a fine-tuning run; or a module or function that takes images in [0, 1] (N C H W) and gives logits (N K),
                with its normalisation inside. A module is evaluated in eval mode, and left as it was
    images      by default the test split of the set that a run was fine-tuned on. A module needs labelled images, which
                may be a pair of arrays: images in [0, 1] or of 0 to 255, and a label each
    evaluation  what to measure; by default clean accuracy and PGD-20 at the ε that goes with the set
    workspace   device and precision; its root is where a module's result is written, nowhere without one. A run's
                result lies in the run's folder, beside results/log.txt
    name        what results call a module
    held_out    evaluate on the training images that a run kept aside: writes choice-held-out.json, which is no result
    shard       the part of the work that is this process's; None is returned while other parts are missing
    allow_seen  evaluate a run even on images of one's own that it was trained on, which is a ValueError otherwise

    Answers are float32 whatever the runtime's precision: with bf16, attacks search in bf16 and answers decide.
    Verdicts are kept as they come: an evaluation that was stopped goes on, and a larger one reuses a smaller one's.
    A result's file is named by what was asked (evaluation/result_names.py).
    """
    subject = classifier_of(classifier, name, workspace)
    images, source = images_of(subject, images, held_out, name)
    asked = DataSource(images.name) if source is None else source
    usual = default_evaluation(subject.source if subject.trained_here else DataSource(images.name))
    evaluation = evaluation or default_evaluation(asked)
    if evaluation.until is not None and shard.count > 1:
        raise ValueError("--until goes by all that was judged, so it is for one process: leave --shard out")
    seen = check_unseen(subject.folder, evaluation.of(images), source, held_out, allow_seen)
    with subject.prepared(images, workspace.runtime) as model:
        evaluation = _without_gradients(evaluation) if not model.gradients else evaluation
        judged = evaluation.of(model.images)
        _tell_eps(subject, evaluation, workspace.quiet)
        blocks = evaluation.blocks(len(judged))
        question = _question(subject, evaluation, images, model, blocks)
        log = VerdictLog(subject.folder, *question, label=verdict_suffix(evaluation.place, held_out), shard=shard)
        file, complete = _files(subject, evaluation, usual, images, held_out)
        evaluation = with_earlier_answers(evaluation, complete, log, len(judged))
        findings = _quick_checks(evaluation, model, workspace.quiet)
        evaluation.judge(model.net, model.images, log, workspace.quiet, model.search, shard.of(len(blocks)))
    log.gather()
    verdicts = evaluation.collected(log, len(judged))
    if evaluation.whole(verdicts):
        evaluation, file = replace(evaluation, until=None), complete  # it came to the end before the limit
    elif evaluation.until is None:
        n = min(len(verdicts[part]) for part in ("clean", *evaluation.answered))
        print(f"shard {shard} is done; {n} of {len(judged)} images are judged so far", file=sys.stderr)
        return None
    about = (subject.known, evaluation, image_identity(images), verdicts, log.seconds(), judged, model.world, findings)
    result = result_of(*about)
    result |= {"date": datetime.now(UTC).date().isoformat(), "notes": log.identity, "seen": seen}
    _tell_constant(result, workspace.quiet)
    if file is not None:
        _keep(result, file, held_out, workspace.quiet)
    return result


def classifier_of(
    classifier: Path | str | Callable[[Tensor], Any] | Classifier, name: str, workspace: Workspace
) -> Classifier:
    """The classifier of a run, or a module or function as a classifier."""
    if isinstance(classifier, Classifier):
        return classifier
    if isinstance(classifier, (str, Path)):
        return Classifier.of_run(Path(classifier))
    if not callable(classifier):
        raise ValueError(f"what is judged is a run, a module or a function, not a {type(classifier).__name__}")
    return Classifier.of_module(classifier, name, None if workspace.root is None else Path(workspace.root))


def images_of(
    subject: Classifier, images: Images | DataSource | tuple[Any, Any] | None, held_out: bool, name: str
) -> tuple[Images, DataSource | None]:
    """The images to evaluate on, and where they come from, if that is known."""
    if isinstance(images, (tuple, list)):
        images = Images.of(*images, name=f"{name}'s images")
    if isinstance(images, Images):
        return images, None
    source = images or subject.source
    return subject.images(images, held_out), source


def _question(
    subject: Classifier, evaluation: Evaluation, images: Images, model: PreparedClassifier, blocks: Sequence[Tensor]
) -> tuple[Any, ...]:
    """All that the verdicts depend on: cached ones are found by it."""
    question = (to_json(evaluation.place), subject.weights, images.digest, model.world)
    if padding := subject.about.get("backbone", {}).get("padding", 1) - 1:
        question += (f"padding {padding + 1}",)  # no weight shows it
    if not subject.trained_here:  # what somebody's code computes does not follow from its weights alone
        known = blocks if subject.weights.startswith("function-") else blocks[:1]
        question += (model.answers(evaluation.of(model.images), known if subject.folder else ()),)
    return question


def _files(
    subject: Classifier, evaluation: Evaluation, usual: Evaluation, images: Images, held_out: bool
) -> tuple[Path | None, Path | None]:
    """Where the result is written, and where if the evaluation comes to its end before its limit."""
    if subject.folder is None:
        return None, None
    suffix = file_suffix(evaluation, usual, subject.other_set(images))
    file = subject.folder / f"{'choice-held-out' if held_out else 'result'}{suffix}.json"
    return file, file.with_name(file.name.replace(f"-until{evaluation.until or 0:g}", ""))


def _keep(result: dict[str, Any], file: Path, held_out: bool, quiet: bool) -> None:
    file = write_result(result, file)
    if not held_out:
        write_text(file.parent / "results" / log_name(result), paper_log(result))
    if not quiet:
        print(f"{file} holds this", file=sys.stderr)


def _without_gradients(evaluation: Evaluation) -> Evaluation:
    """The evaluation for a network that gives no gradient: by attacks that need none."""
    if evaluation.attacks == "queries":
        return evaluation
    print(
        "note: no gradient comes through this network, so that it is attacked without: by Square, with "
        f"{evaluation.queries:,} queries in the place of PGD",
        file=sys.stderr,
    )
    return replace(evaluation, attacks="queries")


def _quick_checks(evaluation: Evaluation, model: PreparedClassifier, quiet: bool) -> tuple[Finding, ...]:
    """Signs that the numbers will be worth little, on images of the first block; with attacks if AutoAttack follows."""
    images = evaluation.of(model.images)
    index = evaluation.blocks(len(images))[0][:CHECKED].to(images.pixels.device)
    x, y, key = images.floats(index), images.label[index], Key(evaluation.seed) / "checks"
    with frozen(model.net):
        patient = ModelUnderTest(through(model.net), x, y, evaluation.attack.ball, key, model.net)
        found = cheap(patient) if evaluation.autoattack == "none" else thorough(patient)
    for finding in () if quiet else found:
        print(f"doubtful ({finding.check}, {finding.sure}): {finding.says} {finding.do}", file=sys.stderr)
    return found


def _tell_eps(candidate: Classifier, evaluation: Evaluation, quiet: bool) -> None:
    """Say it where an encoder was trained against another adversary than it is judged by."""
    for what, part in (("pre-trained", "pretrain"), ("fine-tuned", "finetune")):
        ball = ball_of(candidate.about[part].get("recipe", {}).get("method"))
        if ball is not None and ball != evaluation.attack.ball and not quiet:
            print(
                f"note: {what} at {in_words(ball)}, and judged at {in_words(evaluation.attack.ball)}, which goes with the "
                "set unless --attack.ball.eps says otherwise",
                file=sys.stderr,
            )


def _tell_constant(result: dict[str, Any], quiet: bool) -> None:
    """Say it where a score is no more than what one answer to everything gets."""
    usual = result["constant"]
    low = [word for word, key in (("SA", "standard"), ("RA", "robust")) if result[key]["percent"] <= usual["percent"]]
    if low and not quiet:
        print(
            f"note: {' and '.join(low)} say little: whoever always answers {usual['class']!r} is right on "
            f"{usual['percent']:.1f} %, clean or attacked",
            file=sys.stderr,
        )
