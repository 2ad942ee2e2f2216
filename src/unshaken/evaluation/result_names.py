"""Files of results: named by what was asked; no answer takes the place of another, or of more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_json, write_json, write_text
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import by_part, evaluation_of, papers_log
from unshaken.evaluation.verdict_log import VerdictLog

MODES = ("slf", "alf", "aff")
"""The three modes that the papers report side by side, in their order."""


def verdict_suffix(evaluation: Evaluation, held_out: bool = False) -> str:
    """What a file of verdicts says of its images in its name."""
    return ("-held-out" if held_out else "") + ("" if evaluation.limit is None else f"-first{evaluation.limit}")


def file_suffix(evaluation: Evaluation, usual: Evaluation, other_set: str = "") -> str:
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
    words += [f"init-{asked.init}"] if asked.init != known.init else []
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


def with_earlier_answers(evaluation: Evaluation, file: Path | None, notes: VerdictLog, total: int) -> Evaluation:
    """What an earlier evaluation of the same kind asked beside stays in the result: less does not take the place of more.

    Only what was judged already: nothing is judged that was not asked.
    """
    before = read_json(file) if file is not None and file.exists() else {}
    if before.get("notes") != notes.identity:
        return evaluation
    try:
        more = evaluation.beside(evaluation_of(before))
        asked = {part.name for part in evaluation.parts()}
        verdicts = {name: found for name, found in more.collected(notes, total).items() if name not in asked}
        known = not verdicts or more.whole(verdicts)
    except ValueError:  # published images that are there no more
        return evaluation
    return more if known else evaluation


def write_result(result: dict[str, Any], file: Path) -> Path:
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
        return {name: len(found) for name, found in by_part(evaluation_of(result), result).items()} if result else {}
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
