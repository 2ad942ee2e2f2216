"""The exam of a classifier: result.json, and the log that readers of the papers expect."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json, write_text
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.base.shard import Shard
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.diagnostics.doctor import cheap, thorough
from unshaken.diagnostics.subject import Finding, ModelUnderTest
from unshaken.evaluation.classifier import Classifier, PreparedClassifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import by_part, exam_of, paper_log, papers_log, result_of
from unshaken.evaluation.stages import through
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.nets.network import frozen
from unshaken.recipes.datasets import ball_of, defaults_for, in_words, source_of
from unshaken.recipes.finetune import MODES
from unshaken.recipes.pretrain import image_identity
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
    model: Path | Callable[[Tensor], Any] | Classifier,
    images: Images | DataSource | tuple[Any, Any] | None = None,
    evaluation: Evaluation | None = None,
    *,
    name: str = "model",
    out: Path | None = None,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
    held_out: bool = False,
    shard: Shard = Shard(),
    allow_seen: bool = False,
) -> dict[str, Any] | None:
    """Judge a classifier on test images: the result, which is written beside it with results/log.txt.

    model     a fine-tuning run; or a module or function that takes images in [0, 1] (N C H W) and gives logits (N K),
              with its normalisation inside; a module is judged in eval mode, and left as it was
    images    by default the test split of what a run was fine-tuned on; a module needs labelled ones, which may be a
              pair of arrays: images in [0, 1] or of 0 to 255, and a label each
    name      what results call a module, and
    out       where they go; nowhere if it is not given
    held_out  judge on the training images that a run kept aside: writes choice-held-out.json, which is no result
    shard     the part of the work that is this process's; None comes back while others' parts are missing
    allow_seen  judge a run even on images of one's own that it has learned from, which is a ValueError otherwise

    The answers are float32 whatever the runtime's precision: with bf16 attacks look for adversarial images in that.
    What was judged before, by this exam or a smaller or larger one, is not judged again. A result's file is named by
    what was asked (`file_of`).
    """
    candidate = model if isinstance(model, Classifier) else _candidate(model, name, out)
    usual = default_evaluation(candidate.source) if candidate.trained_here else None
    images = Images.of(*images, name=f"{name}'s images") if isinstance(images, (tuple, list)) else images
    source = None if isinstance(images, Images) else images or candidate.source
    if not isinstance(images, Images):
        evaluation = evaluation or default_evaluation(images or candidate.source)
        images = candidate.images(images, held_out)
    evaluation = evaluation or default_evaluation(DataSource(images.name))
    usual = usual or default_evaluation(DataSource(images.name))
    if evaluation.until is not None and shard.count > 1:
        raise ValueError("--until goes by all that was judged, so it is for one process: leave --shard out")
    seen = check_unseen(candidate.folder, evaluation.of(images), source, held_out, allow_seen)
    with candidate.seated(images, runtime) as seat:
        evaluation, judged = _with_gradients(evaluation, seat), evaluation.of(seat.images)
        _tell_eps(candidate, evaluation, quiet)
        blocks = evaluation.blocks(len(judged))
        place = (to_json(evaluation.place), candidate.weights, images.digest, seat.world)
        if padding := candidate.about.get("backbone", {}).get("padding", 1) - 1:
            place += (f"padding {padding + 1}",)  # which is in no weight
        if not candidate.trained_here:  # what somebody's code computes is not in its weights alone
            known = blocks if candidate.weights.startswith("function-") else blocks[:1]
            place += (seat.answers(judged, known if candidate.folder else ()),)
        notes = VerdictLog(candidate.folder, *place, label=verdict_label(evaluation.place, held_out), shard=shard)
        named = file_label(evaluation, usual, candidate.other_set(images))
        file = candidate.folder and candidate.folder / f"{'choice-held-out' if held_out else 'result'}{named}.json"
        whole = file and file.with_name(
            file.name.replace(f"-until{evaluation.until or 0:g}", "")
        )  # if it comes to the end
        evaluation = _with_what_is_known(evaluation, whole, notes, len(judged))
        checks = _checked(evaluation, seat, quiet)
        evaluation.judge(seat.net, seat.images, notes, quiet, seat.search, shard.of(len(blocks)))
    notes.gather()
    verdicts = evaluation.collected(notes, len(judged))
    if evaluation.whole(verdicts):
        evaluation, file = replace(evaluation, until=None), whole  # it came to the end before that
    elif evaluation.until is None:
        n = min(len(verdicts[part]) for part in ("clean", *evaluation.answered))
        print(f"shard {shard} is done; {n} of {len(judged)} images are judged so far", file=sys.stderr)
        return None
    result = result_of(
        candidate.known, evaluation, image_identity(images), verdicts, notes.seconds(), judged, seat.world, checks
    )
    result |= {"date": datetime.now(UTC).date().isoformat(), "notes": notes.identity, "seen": seen}
    _tell_constant(result, quiet)
    if file is not None:
        file = _written(result, file)
        if not held_out:
            write_text(file.parent / "results" / log_name(result), paper_log(result))
        if not quiet:
            print(f"{file} holds this", file=sys.stderr)
    return result


def _candidate(model: Path | Callable[[Tensor], Any], name: str, out: Path | None) -> Classifier:
    if isinstance(model, (str, Path)):
        return Classifier.of_run(Path(model))
    if not callable(model):
        raise ValueError(f"what is judged is a run, a module or a function, not a {type(model).__name__}")
    return Classifier.of_module(model, name, None if out is None else Path(out))


def _with_gradients(evaluation: Evaluation, seat: PreparedClassifier) -> Evaluation:
    """The exam that a network can sit: without gradients, attacks that need none."""
    if seat.gradients or evaluation.attacks == "queries":
        return evaluation
    print(
        "note: no gradient comes through this network, so that it is attacked without: by Square, with "
        f"{evaluation.queries:,} queries in the place of PGD",
        file=sys.stderr,
    )
    return replace(evaluation, attacks="queries")


def _checked(evaluation: Evaluation, seat: PreparedClassifier, quiet: bool) -> tuple[Finding, ...]:
    """Signs that the numbers will be worth little, on images of the first block; with attacks if AutoAttack follows."""
    images = evaluation.of(seat.images)
    index = evaluation.blocks(len(images))[0][:CHECKED].to(images.pixels.device)
    x, y, key = images.floats(index), images.label[index], Key(evaluation.seed) / "checks"
    with frozen(seat.net):
        patient = ModelUnderTest(through(seat.net), x, y, evaluation.attack.ball, key, seat.net)
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


def verdict_label(evaluation: Evaluation, held_out: bool = False) -> str:
    """What a file of verdicts says of its images in its name."""
    return ("-held-out" if held_out else "") + ("" if evaluation.limit is None else f"-first{evaluation.limit}")


def file_label(evaluation: Evaluation, usual: Evaluation, other_set: str = "") -> str:
    """What a result's file says in its name: all in which the question differs from the usual one of the run.

    AutoAttack and corruptions are beside the question: they are added to the file that has it; a block's size and the
    precision of the search are circumstances, as the world is. A part of the set never takes the place of the whole.
    """
    asked, known = evaluation.attack, usual.attack
    words = [other_set] if other_set else []
    if type(asked.ball) is not type(known.ball):
        words.append(type(asked.ball).__name__.lower())
    if asked.ball != known.ball:
        words.append(f"eps{spelled(asked.ball.eps)}")
    for name in ("steps", "rel_step_size", "restarts"):
        if getattr(asked, name) != getattr(known, name):
            words.append(f"{name}{getattr(asked, name):g}")
    words += [f"start-{asked.start}"] if asked.init != known.init else []
    words += ["without-gradients"] if evaluation.attacks == "queries" else []
    words += [f"queries{evaluation.queries}"] if evaluation.queries != usual.queries else []
    words += [evaluation.autoattack] if evaluation.autoattack not in ("none", "standard") else []
    words += [f"seed{evaluation.seed}"] if evaluation.seed != usual.seed else []
    words += [f"first{evaluation.limit}"] if evaluation.limit is not None else []
    words += [f"until{evaluation.until:g}"] if evaluation.until is not None else []
    return "".join(f"-{word}" for word in words)


def spelled(eps: float) -> str:
    """8over255 where that is how it was meant."""
    levels = round(eps * 255)
    return f"{levels}over255" if levels and abs(eps * 255 - levels) < 1e-6 else f"{eps:g}"


def log_name(result: dict[str, Any]) -> str:
    """Of the papers' log beside a result."""
    return f"log{result.get('file', 'result').removeprefix('result')}.txt"


def _with_what_is_known(evaluation: Evaluation, file: Path | None, notes: VerdictLog, total: int) -> Evaluation:
    """What an earlier exam of the same kind asked beside stays in the result: less does not take the place of more.

    Only what was judged already: nothing is judged that was not asked.
    """
    before = read_json(file) if file is not None and file.exists() else {}
    if before.get("notes") != notes.identity:
        return evaluation
    try:
        more = evaluation.beside(exam_of(before))
        asked = {part.name for part in evaluation.parts()}
        verdicts = {name: found for name, found in more.collected(notes, total).items() if name not in asked}
        known = not verdicts or more.whole(verdicts)
    except ValueError:  # published images that are there no more
        return evaluation
    return more if known else evaluation


def _written(result: dict[str, Any], file: Path) -> Path:
    """Where the result was written. No answer takes the place of another, or of more.

    What is there already is replaced where all that it answers is answered again: in the same circumstances, which are
    weights, images, block size and world. An answer in other circumstances that is less goes into a file of its own;
    else the earlier one is kept aside, where `report` does not read it.
    """
    before = read_json(file) if file.exists() else {}
    old, new = _answers(before), _answers(result)
    if not before or (before.get("notes") == result["notes"] and _covers(new, old)):
        pass
    elif _covers(old, new) and not _covers(new, old):
        file = file.with_name(f"{file.stem}-{result['notes']}.json")
        print(f"a result that answers more stays, made otherwise; this one is {file}", file=sys.stderr)
    else:
        aside = file.with_name(f"earlier-{file.stem}-{before.get('notes', 'unknown')}.json")
        file.replace(aside)
        print(
            f"{file} was made otherwise (weights, images, block size or world): it is {aside.name} now", file=sys.stderr
        )
    result["file"] = file.stem
    write_json(file, result)
    return file


def _answers(result: dict[str, Any]) -> dict[str, int]:
    """What a result answers: by the names of its parts, for how many images."""
    try:
        return {name: len(found) for name, found in by_part(exam_of(result), result).items()} if result else {}
    except (KeyError, ValueError):  # of another version; or of published images that are there no more, undigested
        return {"unknown": len(result)}


def _covers(more: dict[str, int], less: dict[str, int]) -> bool:
    return all(count <= more.get(name, 0) for name, count in less.items())


def write_means(runs: Sequence[Path], results: Sequence[dict[str, Any]]) -> None:
    """Where SLF, ALF and AFF lie side by side, once each: the papers' log of the three and their means above them."""
    for parent in sorted({run.parent for run in runs}):
        mine = [result for run, result in zip(runs, results, strict=True) if run.parent == parent]
        three = sorted((r for r in mine if r["mode"] in MODES), key=lambda result: MODES.index(result["mode"]))
        if [result["mode"] for result in three] == list(MODES):
            checkpoint = f"{parent.resolve().name}/encoder.safetensors"
            write_text(parent / "results" / log_name(three[0]), papers_log(checkpoint, three))
