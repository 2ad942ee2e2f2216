"""Names of result files, and writing one without replacing a result that says more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unshaken.attacks.own import name_of
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json, write_text
from unshaken.evaluation.judge import is_complete, verdicts_of
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import evaluation_of, log_of_modes, verdicts_by_stage
from unshaken.evaluation.verdict_log import VerdictLog

MODES = ("slf", "alf", "aff")
"""The three modes that the papers report side by side, in their order."""


def verdict_suffix(evaluation: Evaluation, held_out: bool = False) -> str:
    """Return the part of a verdict file's name that says which images it is about."""
    return ("-held-out" if held_out else "") + ("" if evaluation.limit is None else f"-first{evaluation.limit}")


def file_suffix(evaluation: Evaluation, usual: Evaluation, other_set: str = "") -> str:
    """Return the part of a result file's name that says how its evaluation differs from the usual one of the run.

    AutoAttack and corruptions are not in the name: their scores are added to the file with the same attack. Nor are
    the block's size and the precision of the search, which are conditions like the environment. A result on some of
    the images has a name of its own, so that it never replaces the one on all of them.
    """
    attack, default = evaluation.attack, usual.attack
    words = [other_set] if other_set else []
    words += [] if isinstance(attack, PGD) else [name_of(attack)]
    if type(attack.ball) is not type(default.ball):
        words.append(type(attack.ball).__name__.lower())
    if attack.ball != default.ball:
        words.append(f"eps{in_255ths(attack.ball.eps)}")
    for name in ("steps", "rel_step_size", "restarts") if isinstance(attack, PGD) else ():
        if getattr(attack, name) != getattr(default, name):
            words.append(f"{name}{getattr(attack, name):g}")
    words += [f"init-{attack.init}"] if isinstance(attack, PGD) and attack.init != default.init else []  # pyright: ignore[reportAttributeAccessIssue]
    words += ["without-gradients"] if evaluation.attacks == "queries" else []
    words += [f"queries{evaluation.queries}"] if evaluation.queries != usual.queries else []
    words += [evaluation.autoattack] if evaluation.autoattack not in ("none", "standard") else []
    words += [f"seed{evaluation.seed}"] if evaluation.seed != usual.seed else []
    words += [f"first{evaluation.limit}"] if evaluation.limit is not None else []
    words += [f"until{evaluation.until:g}"] if evaluation.until is not None else []
    return "".join(f"-{word}" for word in words)


def in_255ths(eps: float) -> str:
    """Write ε as 8over255 if it is a multiple of 1/255, else as a number."""
    levels = round(eps * 255)
    return f"{levels}over255" if levels and abs(eps * 255 - levels) < 1e-6 else f"{eps:g}"


def log_name(result: dict[str, Any]) -> str:
    """Return the name of the text log that goes with a result."""
    return f"log{result.get('file', 'result').removeprefix('result')}.txt"


def with_earlier_stages(evaluation: Evaluation, file: Path | None, log: VerdictLog, total: int) -> Evaluation:
    """Return the evaluation with the stages of an earlier result in the file, so that they stay in the result.

    Only stages that are judged already are added: nothing is judged that the user did not ask for.
    """
    before = read_json(file) if file is not None and file.exists() else {}
    if before.get("notes") != log.identity:
        return evaluation
    try:
        merged = evaluation.merged_with(evaluation_of(before))
        own = {stage.name for stage in evaluation.stages}
        added = {name: found for name, found in verdicts_of(merged, log, total).items() if name not in own}
        judged = not added or is_complete(merged, added)
    except ValueError:  # the published images are gone
        return evaluation
    return merged if judged else evaluation


def write_result(result: dict[str, Any], file: Path) -> Path:
    """Write a result, and return its file, which may be another one than asked for: see below.

    The conditions of a result are weights, images, block size and environment. An earlier result in the file is
    replaced if the new one has all its stages under the same conditions. Otherwise, if the earlier one has more stages,
    the new one goes into a file of its own; else the earlier file is renamed, so that `report` does not read it.
    """
    before = read_json(file) if file.exists() else {}
    old, new = _images_by_stage(before), _images_by_stage(result)
    if not before or (before.get("notes") == result["notes"] and _covers(new, old)):
        pass
    elif _covers(old, new) and not _covers(new, old):
        file = file.with_name(f"{file.stem}-{result['notes']}.json")
        print(
            f"an earlier result has more scores, under other conditions, and stays; this one is {file}", file=sys.stderr
        )
    else:
        aside = file.with_name(f"earlier-{file.stem}-{before.get('notes', 'unknown')}.json")
        file.replace(aside)
        print(
            f"{file} was made under other conditions (weights, images, block size or environment): it is now "
            f"{aside.name}",
            file=sys.stderr,
        )
    result["file"] = file.stem
    write_json(file, result)
    return file


def _images_by_stage(result: dict[str, Any]) -> dict[str, int]:
    """Return the number of judged images by stage."""
    try:
        return (
            {name: len(found) for name, found in verdicts_by_stage(evaluation_of(result), result).items()}
            if result
            else {}
        )
    except (
        KeyError,
        ValueError,
    ):  # of another version; or the published images are gone, and the result has no digests of them
        return {"unknown": len(result)}


def _covers(more: dict[str, int], less: dict[str, int]) -> bool:
    return all(count <= more.get(name, 0) for name, count in less.items())


def write_means(runs: Sequence[Path], results: Sequence[dict[str, Any]]) -> None:
    """Write the log of the three modes with their means for each encoder that has results of SLF, ALF and AFF."""
    for parent in sorted({run.parent for run in runs}):
        mine = [result for run, result in zip(runs, results, strict=True) if run.parent == parent]
        three = sorted((r for r in mine if r["mode"] in MODES), key=lambda result: MODES.index(result["mode"]))
        if [result["mode"] for result in three] == list(MODES):
            checkpoint = f"{parent.resolve().name}/encoder.safetensors"
            write_text(parent / "results" / log_name(three[0]), log_of_modes(checkpoint, three))
