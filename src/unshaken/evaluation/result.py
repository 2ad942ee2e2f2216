"""A result: counts and bits, with recipes, seeds, digests and the world beside them; and the papers' log of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import mean
from typing import Any

from unshaken.base.serialize import to_json
from unshaken.corruptions.severity import FIFTEEN, SEVERITIES
from unshaken.data.images import Images
from unshaken.diagnostics.constant_answer import constant
from unshaken.diagnostics.subject import Finding
from unshaken.evaluation.corruption_accuracy import corruption_accuracy
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.verdicts import Verdicts

VERSION = 2
"""Of the layout: since 2, images are judged in blocks of random ones, and each score has its seconds."""


def result_of(
    known: dict[str, Any],
    evaluation: Evaluation,
    data: dict[str, Any],
    verdicts: dict[str, Verdicts],
    spent: dict[str, float],
    images: Images,
    world: dict[str, Any],
    checks: Sequence[Finding],
) -> dict[str, Any]:
    """What result.json holds.

    known    of the classifier: "pretrain" and "finetune" say where its encoder and itself come from, "seconds" what
             they took, "spent" what those of pre-training went into, "cost" its peak memory, "weights" is its digest
    data     the set that was judged
    spent    seconds by the evaluation's parts
    images   that were judged
    checks   findings that make the numbers doubtful
    """
    pretrain, finetune = known["pretrain"]["recipe"], known["finetune"]["recipe"]
    return {
        "version": VERSION,
        "method": pretrain["name"],
        "mode": finetune["method"]["type"].lower(),
        "data": data,
        **scores(evaluation, verdicts, spent, images.pixels.shape[-1]),
        "constant": constant(images),
        "checks": [asdict(finding) for finding in checks],
        "seeds": {"pretrain": pretrain["seed"], "finetune": finetune["seed"], "evaluation": evaluation.seed},
        "seconds": known["seconds"] | {"evaluation": round(sum(spent.get(part, 0.0) for part in verdicts), 2)},
        **{key: known[key] for key in ("spent", "cost") if key in known},
        "weights": known["weights"],
        "evaluation": to_json(evaluation),
        "finetune": known["finetune"],
        "pretrain": known["pretrain"],
        "world": world,
    }


def scores(evaluation: Evaluation, verdicts: dict[str, Verdicts], spent: dict[str, float], side: int) -> dict[str, Any]:
    """Standard and robust accuracy, and those of AutoAttack and of the corruptions if they were asked."""

    def score(*parts: str) -> dict[str, Any]:
        """Of the last of the parts, which all went before it."""
        return verdicts[parts[-1]].summary() | {"seconds": round(sum(spent[part] for part in parts), 2)}

    found = {"standard": score("clean"), "robust": score(*evaluation.answered)}
    if evaluation.stages:
        stages = {name.partition("/")[2]: score(name) for name in evaluation.stages}
        found["autoattack"] = score(*evaluation.stages) | {"version": evaluation.autoattack, "stages": stages}
    if evaluation.names:
        by: dict[str, Any] = {}
        for each in evaluation.corrupted:
            by.setdefault(each.name, {})[str(each.severity)] = score(evaluation.part_of(each))
        found |= {"corruptions": by, "corrupted": made(evaluation, side)}
        if evaluation.published:
            names = {f"{each.name}/{each.severity}": evaluation.part_of(each) for each in evaluation.corrupted}
            found["corrupted"]["digests"] = {name: part.split("/")[1] for name, part in names.items()}
        if means := corruption_means(by):
            found["corruption_accuracy"] = means
    return found


def by_part(evaluation: Evaluation, result: dict[str, Any]) -> dict[str, Verdicts]:
    """A result's verdicts by the names of the evaluation's parts, those of restarts before the last left out."""
    found = {"clean": result["standard"], evaluation.answered[-1]: result["robust"]}
    found |= {
        f"{evaluation.autoattack}/{name}": score
        for name, score in result.get("autoattack", {}).get("stages", {}).items()
    }
    corrupted = evaluation.corrupted if "corruptions" in result else ()
    digests = result.get("corrupted", {}).get("digests")
    found |= {
        evaluation.part_of(each, digests): result["corruptions"][each.name][str(each.severity)] for each in corrupted
    }
    return {name: Verdicts.read(score) for name, score in found.items()}


def evaluation_of(result: dict[str, Any]) -> Evaluation:
    """The evaluation that a result was made by.

    Demos of the first versions had AutoAttack added from outside the evaluation: its first images alone.
    """
    evaluation, added = Evaluation.read(result["evaluation"]), result.get("autoattack")
    if evaluation.autoattack != "none" or not added:
        return evaluation
    return replace(evaluation, autoattack=added["version"], autoattack_limit=added["n"] if "of" in added else None)


def misstated(result: dict[str, Any]) -> list[str]:
    """The scores whose numbers are not those of their bits, by name: nothing has to be judged again to see it."""
    stages = result.get("autoattack", {}).get("stages", {})
    scores = {name: result[name] for name in ("standard", "robust", "autoattack") if name in result} | stages
    for name, by in result.get("corruptions", {}).items():
        scores |= {f"{name}/{level}": score for level, score in by.items()}
    found = [name for name, score in scores.items() if not Verdicts.read(score).summary().items() <= score.items()]
    if stages and list(stages.values())[-1]["bits"] != result["autoattack"]["bits"]:
        found.append("autoattack")
    means = corruption_means(result["corruptions"]) if "corruptions" in result else {}
    return found + ["corruption_accuracy"] * (result.get("corruption_accuracy", {}) != means)


def made(evaluation: Evaluation, side: int) -> dict[str, Any]:
    """With whose constants the corruptions were made, and which of them are not the published ones."""
    if evaluation.published:
        return {"constants": "published", "substitutes": {}}
    substitutes = {each.name: each.substitute for each in evaluation.corrupted if each.substitute}
    return {"constants": evaluation.corrupted[0].used(side), "substitutes": substitutes}


def corruption_means(by: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    """In percent, CS-1 to CS-5 and their mean; nothing unless all fifteen at all severities are of the same images."""
    whole = all(str(level) in by.get(name, {}) for name in FIFTEEN for level in SEVERITIES)
    counted = {score["n"] for name in FIFTEEN for score in by.get(name, {}).values()}
    if not whole or len(counted) > 1:
        return {}
    correct = {name: [by[name][str(level)]["correct"] for level in SEVERITIES] for name in FIFTEEN}
    return corruption_accuracy(correct, counted.pop()).summary()


def _share(score: dict[str, Any]) -> float:
    return 100 * score["correct"] / score["n"]


def paper_log(result: dict[str, Any]) -> str:
    """The lines that the papers' own scripts leave in results/log.txt."""
    mode, steps = result["mode"].upper(), result["evaluation"]["attack"]["steps"]
    attack = "Square" if result["evaluation"].get("attacks") == "queries" else f"PGD{steps}"
    lines = [("standard", result["standard"]["percent"]), (attack, result["robust"]["percent"])]
    if "autoattack" in result:
        lines.append(("robust", result["autoattack"]["percent"]))
    if means := result.get("corruption_accuracy"):
        lines.append(("mean corruption", means["mean"]))
        lines += [(f"corruption severity-{level}", means[f"CS-{level}"]) for level in SEVERITIES]
    return "".join(f"{mode} {what} acc: {value:.2f}\n" for what, value in lines)


def papers_log(checkpoint: str, results: list[dict[str, Any]]) -> str:
    """The log of all modes together: each one's lines, then the means over modes."""
    means = [("standard", [_share(result["standard"]) for result in results])]
    if all("autoattack" in result for result in results):
        means.insert(0, ("robust", [_share(result["autoattack"]) for result in results]))
    if all("corruption_accuracy" in result for result in results):
        means.append(("corruption", [result["corruption_accuracy"]["mean"] for result in results]))
    lines = "".join(f"mean {what} accuracy: {mean(values):.2f}\n" for what, values in means)
    return f"Finetuning checkpoint: {checkpoint}\n" + "".join(map(paper_log, results)) + lines
