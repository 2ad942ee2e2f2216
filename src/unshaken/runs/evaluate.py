"""Evaluation: measure a classifier's accuracies, resume, or extend an earlier result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from unshaken.attacks.ball import ball_of, in_words
from unshaken.attacks.base import Attack
from unshaken.attacks.own import as_attack
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_text
from unshaken.base.python_words import in_python
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.base.shard import Shard
from unshaken.data.images import Images
from unshaken.data.source import DataSource, source_of
from unshaken.diagnostics.doctor import all_checks, quick_checks
from unshaken.diagnostics.subject import Finding, ModelUnderTest
from unshaken.evaluation.classifier import Classifier, PreparedClassifier
from unshaken.evaluation.examples import EvaluationResult, adversarial_examples
from unshaken.evaluation.judge import is_complete, judge, verdicts_of
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import log_of_result, result_of
from unshaken.evaluation.result_names import file_suffix, log_name, verdict_suffix, with_earlier_stages, write_result
from unshaken.evaluation.stages import logits_of
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.evaluation.verdicts import Verdicts
from unshaken.nets.locate import is_repo
from unshaken.nets.network import frozen
from unshaken.recipes.datasets import defaults_for
from unshaken.runs.examples import write_examples
from unshaken.runs.workspace import Workspace
from unshaken.train.image_sets import image_identity
from unshaken.train.training_images import check_unseen

CHECKED = 64
"""Images for the checks before an evaluation."""


def default_evaluation(data: DataSource | Path) -> Evaluation:
    """Return the usual evaluation: PGD-20 at the ε of a data set, or of the set that a run was fine-tuned on."""
    return Evaluation(PGD(defaults_for(data if isinstance(data, DataSource) else finetuning_data(data)).ball, steps=20))


def finetuning_data(run: Path) -> DataSource:
    """Return the set that a fine-tuning run took its labels from."""
    recipe = read_json(run / "recipe.json").get("recipe", {})
    if "data" not in recipe:
        raise ValueError(f"{run / 'recipe.json'} is not of a fine-tuning run")
    return source_of(recipe["data"], run)


@in_python
def evaluate(
    classifier: Path | str | Callable[[Tensor], Any] | Classifier,
    images: Images | DataSource | Any = None,
    evaluation: Evaluation | None = None,
    workspace: Workspace = Workspace(),
    *,
    name: str = "model",
    held_out: bool = False,
    shard: Shard = Shard(),
    allow_seen: bool = False,
    attack: Attack | Callable[..., Tensor] | None = None,
    examples: int = 0,
) -> EvaluationResult | None:
    """Measure clean, adversarial and corrupted accuracy on labelled images, with a verdict for each image.

    classifier  a fine-tuning run; an exported file, a folder for a hub, or OWNER/NAME on the Hub; or a module or
                function from images in [0, 1] (N C H W) to logits (N K), with its normalisation inside. A module is
                evaluated in eval mode, and its mode is restored
    images      labelled images; by default the test split of the set that a run was fine-tuned on. They may be
                anything that `Images.of` reads: a pair of arrays, images and labels; a torch Dataset; ...
    evaluation  what to measure; by default clean accuracy and PGD-20 at the ε of the set
    workspace   device and precision. A module's result is written into its root, if it has one; a run's result is
                written into the run's folder
    name        the name of a module in results
    held_out    evaluate on the training images that a run held out; writes choice-held-out.json, which is not a result
    shard       this process's share of the work; None is returned while other shares are missing
    allow_seen  allow your own images that the run was trained on, which are a ValueError otherwise
    attack      an attack of your own in the place of PGD: an `Attack`, or a function (model, x, y, key) → x_adv
    examples    the number of adversarial images to return, as `result.examples`, and to write beside the result's file

    Verdicts are in float32 whatever the runtime's precision: with bf16, attacks search in bf16, and float32 decides.
    They are logged as they are reached: a stopped evaluation resumes, and a larger one reuses those of a smaller one.
    The result's file is named by what was evaluated (evaluation/result_names.py).
    """
    subject = classifier_of(classifier, name, workspace)
    images, source = images_of(subject, images, held_out, name)
    usual = default_evaluation(subject.source if subject.trained_here else DataSource(images.name))
    evaluation = evaluation or default_evaluation(source or DataSource(images.name))
    if attack is not None:
        evaluation = replace(evaluation, attack=as_attack(attack, evaluation.attack.ball))
    if evaluation.until is not None and shard.count > 1:
        raise ValueError("--until depends on all verdicts, so it needs a single process: leave --shard out")
    seen = check_unseen(subject.folder, evaluation.select(images), source, held_out, allow_seen)
    with subject.prepared(images, workspace.runtime, alone=shard.count == 1) as model:
        evaluation = _without_gradients(evaluation) if not model.gradients else evaluation
        judged = evaluation.select(model.images)
        _note_eps(subject, evaluation, usual, workspace.quiet)
        blocks = evaluation.blocks(len(judged))
        identity = _identity(subject, evaluation, images, model, blocks)
        log = VerdictLog(subject.folder, *identity, label=verdict_suffix(evaluation, held_out), shard=shard)
        file, file_if_complete = _files(subject, evaluation, usual, images, held_out)
        evaluation = with_earlier_stages(evaluation, file_if_complete, log, len(judged))
        findings = _quick_checks(evaluation, model, workspace.quiet)
        judge(evaluation, model.net, model.images, log, workspace.quiet, model.search, shard.of(len(blocks)))
        shown = None
        if examples:
            shown = adversarial_examples(evaluation, model.net, model.images, log, examples, model.search)
    log.reload()
    verdicts = verdicts_of(evaluation, log, len(judged))
    complete = is_complete(evaluation, verdicts)
    if not complete and evaluation.until is None:
        _report_share(shard, evaluation, verdicts, len(judged))
        return None
    if complete:  # `until` had no effect
        evaluation, file = replace(evaluation, until=None), file_if_complete
    data, seconds = image_identity(images), log.seconds()
    result = result_of(subject.provenance, evaluation, data, verdicts, seconds, judged, model.world, findings)
    result |= {"date": datetime.now(UTC).date().isoformat(), "notes": log.identity, "seen": seen}
    _note_constant(result, workspace.quiet)
    if file is not None:
        file = _write(result, file, held_out, workspace.quiet)
        if shown is not None:
            write_examples(shown, file, workspace.quiet)
    return EvaluationResult(result, shown)


def _report_share(shard: Shard, evaluation: Evaluation, verdicts: dict[str, Verdicts], total: int) -> None:
    """Print how many images are judged so far, if other processes have not finished their shares."""
    n = min(len(verdicts[stage]) for stage in ("clean", *evaluation.first_attack_names))
    print(f"shard {shard} is done; {n} of {total} images are judged so far", file=sys.stderr)


def is_saved_model(name: Path | str) -> bool:
    """Return whether a name is a file, a folder for a hub or a repository, and not a run."""
    path = Path(name)
    return is_repo(name) or path.is_file() or (path / "model.safetensors").exists()


def classifier_of(
    classifier: Path | str | Callable[[Tensor], Any] | Classifier, name: str, workspace: Workspace
) -> Classifier:
    """Return the classifier of a run, or wrap a module or function as one."""
    if isinstance(classifier, Classifier):
        return classifier
    if isinstance(classifier, (str, Path)):
        return Classifier.of_file(classifier) if is_saved_model(classifier) else Classifier.of_run(Path(classifier))
    if not callable(classifier):
        raise ValueError(f"a classifier is a run, a module or a function, not a {type(classifier).__name__}")
    return Classifier.of_module(classifier, name, None if workspace.root is None else Path(workspace.root))


def images_of(
    subject: Classifier, images: Images | DataSource | Any, held_out: bool, name: str
) -> tuple[Images, DataSource | None]:
    """Return the images to evaluate on, and their source if they come from one."""
    if images is not None and not isinstance(images, (Images, DataSource)):
        two = isinstance(images, (tuple, list)) and len(images) == 2
        pair = images if two and getattr(images[1], "ndim", 1) < 3 else (images,)
        images = Images.of(*pair, name=f"{name}'s images")
    if isinstance(images, Images):
        return images, None
    source = images or subject.source
    return subject.images(images, held_out), source


def _identity(
    subject: Classifier, evaluation: Evaluation, images: Images, model: PreparedClassifier, blocks: Sequence[Tensor]
) -> tuple[Any, ...]:
    """Return everything that the verdicts depend on: logged verdicts are found by it."""
    identity = (to_json(evaluation.cache_key), subject.weights, images.digest, model.world)
    if padding := subject.metadata.get("backbone", {}).get("padding", 1) - 1:
        identity += (f"padding {padding + 1}",)  # it is not in the weights
    if not subject.trained_here:  # the user's code may change while its weights do not
        answered = blocks if subject.weights.startswith("function-") else blocks[:1]
        identity += (model.answers(evaluation.select(model.images), answered if subject.folder else ()),)
    return identity


def _files(
    subject: Classifier, evaluation: Evaluation, usual: Evaluation, images: Images, held_out: bool
) -> tuple[Path | None, Path | None]:
    """Return the result's file, and its file if all images are judged in spite of `until`."""
    if subject.folder is None:
        return None, None
    suffix = file_suffix(evaluation, usual, subject.other_set_name(images))
    file = subject.folder / f"{'choice-held-out' if held_out else 'result'}{suffix}.json"
    return file, file.with_name(file.name.replace(f"-until{evaluation.until or 0:g}", ""))


def _write(result: dict[str, Any], file: Path, held_out: bool, quiet: bool) -> Path:
    file = write_result(result, file)
    if not held_out:
        write_text(file.parent / "results" / log_name(result), log_of_result(result))
    if not quiet:
        print(f"{file} holds this result", file=sys.stderr)
    return file


def _without_gradients(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation for a network that gives no gradient, with attacks that need none."""
    if evaluation.attacks == "queries":
        return evaluation
    print(
        "note: this network gives no gradient, so it is attacked by Square, which needs none, with "
        f"{evaluation.queries:,} queries instead of PGD",
        file=sys.stderr,
    )
    return replace(evaluation, attacks="queries")


def _quick_checks(evaluation: Evaluation, model: PreparedClassifier, quiet: bool) -> tuple[Finding, ...]:
    """Check images of the first block for signs of an unreliable evaluation; with attacks if AutoAttack follows."""
    images = evaluation.select(model.images)
    index = evaluation.blocks(len(images))[0][:CHECKED].to(images.pixels.device)
    x, y, key = images.floats(index), images.label[index], Key(evaluation.seed) / "checks"
    with frozen(model.net):
        tested = ModelUnderTest(logits_of(model.net), x, y, evaluation.attack.ball, key, model.net)
        found = quick_checks(tested) if evaluation.autoattack == "none" else all_checks(tested)
    for finding in () if quiet else found:
        print(f"doubtful ({finding.check}, {finding.sure}): {finding.says} {finding.do}", file=sys.stderr)
    return found


def _note_eps(subject: Classifier, evaluation: Evaluation, usual: Evaluation, quiet: bool) -> None:
    """Print a note if the evaluation takes the set's usual adversary, and the training took another."""
    if quiet or evaluation.attack.ball != usual.attack.ball:
        return
    for what, phase in (("pre-trained", "pretrain"), ("fine-tuned", "finetune")):
        ball = ball_of(subject.metadata[phase].get("recipe", {}).get("method"))
        if ball is not None and ball != evaluation.attack.ball:
            print(
                f"note: {what} at {in_words(ball)}, and evaluated at {in_words(evaluation.attack.ball)}, the default "
                "for this set; --attack.ball.eps changes it",
                file=sys.stderr,
            )


def _note_constant(result: dict[str, Any], quiet: bool) -> None:
    """Print a note if an accuracy is no higher than that of a constant answer."""
    usual = result["constant"]
    low = [word for word, key in (("SA", "standard"), ("RA", "robust")) if result[key]["percent"] <= usual["percent"]]
    if low and not quiet:
        print(
            f"note: {' and '.join(low)} say little: always answering {usual['class']!r} is correct on "
            f"{usual['percent']:.1f} %, clean or attacked",
            file=sys.stderr,
        )
