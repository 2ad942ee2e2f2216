"""A result as JSON: counts and bits with recipes, seeds, digests and environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import mean
from typing import Any

from unshaken.attacks.own import kind_of
from unshaken.base.serialize import to_json
from unshaken.corruptions.severity import FIFTEEN, SEVERITIES
from unshaken.data.images import Images
from unshaken.diagnostics.constant_answer import constant
from unshaken.diagnostics.subject import Finding
from unshaken.evaluation.corruption_accuracy import corruption_accuracy
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.verdicts import Verdicts

VERSION = 2
"""Version of the layout. Since 2, images are judged in random blocks, and each score has its seconds."""


def result_of(
    provenance: dict[str, Any],
    evaluation: Evaluation,
    data: dict[str, Any],
    verdicts: dict[str, Verdicts],
    seconds: dict[str, float],
    images: Images,
    world: dict[str, Any],
    checks: Sequence[Finding],
) -> dict[str, Any]:
    """Return the content of result.json.

    provenance  of the classifier: the recipes of pre-training and fine-tuning, seconds, cost, the weights' digest
    data        the name, the split, the size and the digest of the set
    seconds     by the evaluation's stages
    images      the images that were judged
    world       the environment: versions, device and program
    checks      findings that make the numbers doubtful
    """
    pretrain, finetune = provenance["pretrain"]["recipe"], provenance["finetune"]["recipe"]
    return {
        "version": VERSION,
        "method": pretrain["name"],
        "mode": finetune["method"]["type"].lower(),
        "data": data,
        **scores(evaluation, verdicts, seconds, images.pixels.shape[-1]),
        "constant": constant(images),
        "checks": [asdict(finding) for finding in checks],
        "seeds": {"pretrain": pretrain["seed"], "finetune": finetune["seed"], "evaluation": evaluation.seed},
        "seconds": provenance["seconds"] | {"evaluation": round(sum(seconds.get(name, 0.0) for name in verdicts), 2)},
        **{key: provenance[key] for key in ("spent", "cost") if key in provenance},
        "weights": provenance["weights"],
        "evaluation": to_json(evaluation),
        "finetune": provenance["finetune"],
        "pretrain": provenance["pretrain"],
        "world": world,
    }


def scores(
    evaluation: Evaluation, verdicts: dict[str, Verdicts], seconds: dict[str, float], size: int
) -> dict[str, Any]:
    """Return standard and robust accuracy, and those under AutoAttack and corruptions if they were evaluated."""

    def score(*stages: str) -> dict[str, Any]:
        """The verdicts of the last stage, with the seconds of all these stages."""
        return verdicts[stages[-1]].summary() | {"seconds": round(sum(seconds[stage] for stage in stages), 2)}

    found = {"standard": score("clean"), "robust": score(*evaluation.first_attack_names)}
    if names := evaluation.autoattack_names:
        stages = {name.partition("/")[2]: score(name) for name in names}
        found["autoattack"] = score(*names) | {"version": evaluation.autoattack, "stages": stages}
    if evaluation.corruption_names:
        by: dict[str, Any] = {}
        for each in evaluation.corrupted:
            by.setdefault(each.name, {})[str(each.severity)] = score(evaluation.corruption_name(each))
        found |= {"corruptions": by, "corrupted": corruption_constants(evaluation, size)}
        if evaluation.published:
            names = {f"{each.name}/{each.severity}": evaluation.corruption_name(each) for each in evaluation.corrupted}
            found["corrupted"]["digests"] = {name: part.split("/")[1] for name, part in names.items()}
        if means := corruption_means(by):
            found["corruption_accuracy"] = means
    return found


def verdicts_by_stage(evaluation: Evaluation, result: dict[str, Any]) -> dict[str, Verdicts]:
    """Return a result's verdicts by stage. Of several restarts of PGD it has only the last."""
    found = {"clean": result["standard"], evaluation.first_attack_names[-1]: result["robust"]}
    found |= {
        f"{evaluation.autoattack}/{name}": score
        for name, score in result.get("autoattack", {}).get("stages", {}).items()
    }
    corrupted = evaluation.corrupted if "corruptions" in result else ()
    digests = result.get("corrupted", {}).get("digests")
    found |= {
        evaluation.corruption_name(each, digests): result["corruptions"][each.name][str(each.severity)]
        for each in corrupted
    }
    return {name: Verdicts.read(score) for name, score in found.items()}


def evaluation_of(result: dict[str, Any]) -> Evaluation:
    """Return the evaluation that a result was made by.

    In demos of the first versions AutoAttack was added outside the evaluation, on its first images only.
    """
    evaluation, added = Evaluation.read(result["evaluation"]), result.get("autoattack")
    if evaluation.autoattack != "none" or not added:
        return evaluation
    return replace(evaluation, autoattack=added["version"], autoattack_limit=added["n"] if "of" in added else None)


def scores_that_disagree(result: dict[str, Any]) -> list[str]:
    """Return the names of the scores whose numbers disagree with their bits. Nothing is judged again for it."""
    stages = result.get("autoattack", {}).get("stages", {})
    scores = {name: result[name] for name in ("standard", "robust", "autoattack") if name in result} | stages
    for name, by in result.get("corruptions", {}).items():
        scores |= {f"{name}/{level}": score for level, score in by.items()}
    found = [name for name, score in scores.items() if not Verdicts.read(score).summary().items() <= score.items()]
    if stages and list(stages.values())[-1]["bits"] != result["autoattack"]["bits"]:
        found.append("autoattack")
    means = corruption_means(result["corruptions"]) if "corruptions" in result else {}
    return found + ["corruption_accuracy"] * (result.get("corruption_accuracy", {}) != means)


def corruption_constants(evaluation: Evaluation, size: int) -> dict[str, Any]:
    """Return the constants of the corruptions, and the corruptions that differ from the published ones."""
    if evaluation.published:
        return {"constants": "published", "substitutes": {}}
    substitutes = {each.name: each.substitute for each in evaluation.corrupted if each.substitute}
    return {"constants": evaluation.corrupted[0].used(size), "substitutes": substitutes}


def corruption_means(by: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    """Return CS-1 to CS-5 and their mean in percent; {} unless all were judged, on the same images."""
    complete = all(str(level) in by.get(name, {}) for name in FIFTEEN for level in SEVERITIES)
    counted = {score["n"] for name in FIFTEEN for score in by.get(name, {}).values()}
    if not complete or len(counted) > 1:
        return {}
    correct = {name: [by[name][str(level)]["correct"] for level in SEVERITIES] for name in FIFTEEN}
    return corruption_accuracy(correct, counted.pop()).summary()


def _percent(score: dict[str, Any]) -> float:
    return 100 * score["correct"] / score["n"]


def log_of_result(result: dict[str, Any]) -> str:
    """Return the lines that the papers' own scripts write into results/log.txt."""
    mode, used = result["mode"].upper(), result["evaluation"]["attack"]
    attack = f"PGD{used['steps']}" if used.get("type", "PGD") == "PGD" else kind_of(used)
    attack = "Square" if result["evaluation"].get("attacks") == "queries" else attack
    lines = [("standard", result["standard"]["percent"]), (attack, result["robust"]["percent"])]
    if "autoattack" in result:
        lines.append(("robust", result["autoattack"]["percent"]))
    if means := result.get("corruption_accuracy"):
        lines.append(("mean corruption", means["mean"]))
        lines += [(f"corruption severity-{level}", means[f"CS-{level}"]) for level in SEVERITIES]
    return "".join(f"{mode} {what} acc: {value:.2f}\n" for what, value in lines)


def log_of_modes(checkpoint: str, results: list[dict[str, Any]]) -> str:
    """Return the log of all modes: the lines of each, then the means over modes."""
    means = [("standard", [_percent(result["standard"]) for result in results])]
    if all("autoattack" in result for result in results):
        means.insert(0, ("robust", [_percent(result["autoattack"]) for result in results]))
    if all("corruption_accuracy" in result for result in results):
        means.append(("corruption", [result["corruption_accuracy"]["mean"] for result in results]))
    lines = "".join(f"mean {what} accuracy: {mean(values):.2f}\n" for what, values in means)
    return f"Finetuning checkpoint: {checkpoint}\n" + "".join(map(log_of_result, results)) + lines
