"""The exam of a classifier: result.json, and the log that readers of the papers expect."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from unshaken.base.canon import plain
from unshaken.base.files import read_json, write_json, write_text
from unshaken.base.keys import Key
from unshaken.base.shard import Shard
from unshaken.data.images import Images
from unshaken.data.source import Source
from unshaken.evaluate.checks import cheap, thorough
from unshaken.evaluate.exam import Exam, through
from unshaken.evaluate.notes import Notes
from unshaken.evaluate.patient import Finding, Patient
from unshaken.evaluate.result import paper_log, papers_log, result_of
from unshaken.nets.embed import frozen
from unshaken.recipes.candidate import Candidate, Seat
from unshaken.recipes.finetune import MODES
from unshaken.recipes.pretrain import met
from unshaken.recipes.settings import setting_of, source_of
from unshaken.threat.pgd import PGD
from unshaken.train.runtime import Runtime

CHECKED = 64
"""Images that the checks look at."""


def exam_for(data: Source | Path) -> Exam:
    """PGD-20 at the ε that goes with a data set, or with the one that a run was fine-tuned on."""
    return Exam(PGD(setting_of(data if isinstance(data, Source) else tuned_on(data)).ball, steps=20))


def tuned_on(run: Path) -> Source:
    """What a fine-tuning run took its labels from."""
    recipe = read_json(run / "recipe.json").get("recipe", {})
    if "data" not in recipe:
        raise ValueError(f"{run / 'recipe.json'} is not of a fine-tuning run")
    return source_of(recipe["data"], run)


def examine(
    model: Path | nn.Module | Candidate,
    images: Images | Source | None = None,
    exam: Exam | None = None,
    *,
    name: str = "model",
    out: Path | None = None,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
    held_out: bool = False,
    shard: Shard = Shard(),
) -> dict[str, Any] | None:
    """Judge a classifier on test images: the result, which is written beside it with results/log.txt.

    model     a fine-tuning run; or a module that takes images in [0, 1] (N C H W) and gives logits (N K), with its
              normalisation inside; it is judged in eval mode, and left as it was
    images    by default the test split of what a run was fine-tuned on; a module needs labelled ones
    name      what results call a module, and
    out       where they go; nowhere if it is not given
    held_out  judge on the training images that a run kept aside: writes choice-held-out.json, which is no result
    shard     the part of the work that is this process's; None comes back while others' parts are missing

    The answers are float32 whatever the runtime's precision: with bf16 attacks look for adversarial images in that.
    What was judged before, by this exam or a smaller or larger one, is not judged again.
    """
    candidate = model if isinstance(model, Candidate) else _candidate(model, name, out)
    if not isinstance(images, Images):
        exam = exam or exam_for(images or candidate.source)
        images = candidate.images(images, held_out)
    exam = exam or exam_for(Source(images.name))
    if exam.until is not None and shard.count > 1:
        raise ValueError("--until goes by all that was judged, so it is for one process: leave --shard out")
    with candidate.seated(images, runtime) as seat:
        place = (plain(exam.place), candidate.weights, images.digest, seat.world)
        notes = Notes(candidate.folder, *place, label=label(exam.place, held_out), shard=shard)
        exam = _with_what_is_known(exam, candidate.folder, held_out, notes)
        checks = _checked(exam, seat, quiet)
        blocks = exam.blocks(len(exam.of(images)))
        exam.judge(seat.net, seat.images, notes, quiet, seat.search, shard.of(len(blocks)))
    notes.gather()
    verdicts = exam.collected(notes, len(exam.of(images)))
    if all(each.whole for each in verdicts.values()):
        exam = replace(exam, until=None)  # it came to the end before that
    elif exam.until is None:
        n = min(len(each) for each in verdicts.values())
        print(f"shard {shard} is done; {n} of {len(exam.of(images))} images are judged so far", file=sys.stderr)
        return None
    side = images.pixels.shape[-1]
    result = result_of(candidate.known, exam, met(images), verdicts, notes.seconds(), side, seat.world, checks)
    result["notes"] = notes.identity
    if candidate.folder is not None:
        _write(result, exam, candidate.folder, held_out)
    return result


def _candidate(model: Path | nn.Module, name: str, out: Path | None) -> Candidate:
    return Candidate.of_module(model, name, out) if isinstance(model, nn.Module) else Candidate.of_run(Path(model))


def _checked(exam: Exam, seat: Seat, quiet: bool) -> tuple[Finding, ...]:
    """Signs that the numbers will be worth little, on images of the first block; with attacks if AutoAttack follows."""
    images = exam.of(seat.images)
    index = exam.blocks(len(images))[0][:CHECKED].to(images.pixels.device)
    x, y, key = images.floats(index), images.label[index], Key(exam.seed) / "checks"
    with frozen(seat.net):
        patient = Patient(through(seat.net), x, y, exam.attack.ball, key, seat.net)
        found = cheap(patient) if exam.autoattack == "none" else thorough(patient)
    for finding in () if quiet else found:
        print(f"doubtful ({finding.check}, {finding.sure}): {finding.says} {finding.do}", file=sys.stderr)
    return found


def label(exam: Exam, held_out: bool = False) -> str:
    """What a file's name says of its images: a part never takes the place of the whole."""
    held = "-held-out" if held_out else ""
    first = "" if exam.limit is None else f"-first{exam.limit}"
    return held + first + ("" if exam.until is None else f"-until{exam.until:g}")


def _with_what_is_known(exam: Exam, folder: Path | None, held_out: bool, notes: Notes) -> Exam:
    """What an earlier exam of the same kind asked beside stays in the result: less does not take the place of more."""
    file = None if folder is None else folder / _name(replace(exam, until=None), held_out)
    before = read_json(file) if file is not None and file.exists() else {}
    return exam.beside(Exam.read(before["exam"])) if before.get("notes") == notes.identity else exam


def _name(exam: Exam, held_out: bool) -> str:
    """`report` reads results, and what was held out is none."""
    return f"{'choice' if held_out else 'result'}{label(exam, held_out)}.json"


def _write(result: dict[str, Any], exam: Exam, folder: Path, held_out: bool) -> None:
    file = folder / _name(exam, held_out)
    before = read_json(file) if file.exists() else {}
    if {"autoattack", "corruptions"} & set(before) - set(result):  # of another seed, block size, set or world
        aside = file.with_name(f"{file.stem}-{before['notes'][:8]}.json")
        file.replace(aside)
        print(f"{file} was of another exam, and of more: it is {aside.name} now", file=sys.stderr)
    write_json(file, result)
    if not held_out:
        write_text(folder / "results" / f"log{label(exam)}.txt", paper_log(result))


def write_means(runs: Sequence[Path], results: Sequence[dict[str, Any]]) -> None:
    """Where SLF, ALF and AFF lie side by side, once each: the papers' log of the three and their means above them."""
    for parent in sorted({run.parent for run in runs}):
        mine = [result for run, result in zip(runs, results, strict=True) if run.parent == parent]
        three = sorted((r for r in mine if r["mode"] in MODES), key=lambda result: MODES.index(result["mode"]))
        if [result["mode"] for result in three] == list(MODES):
            exam = Exam.read(three[0]["exam"])
            checkpoint = f"{parent.resolve().name}/encoder.safetensors"
            write_text(parent / "results" / f"log{label(exam)}.txt", papers_log(checkpoint, three))
