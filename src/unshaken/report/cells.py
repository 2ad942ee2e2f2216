"""Cells of a table: counts, accuracies, attacks and seconds of results as short text."""

from __future__ import annotations

from math import nan
from statistics import mean, stdev
from typing import Any

MEASURED = {"AA": "autoattack", "CA": "corruption_accuracy"}
"""Columns that a table has if any result has their score."""


def judged(result: dict[str, Any]) -> str:
    """Return the number of judged images, and of how many if images are missing."""
    score = result["robust"]
    return f"{score['n']} of {score['of']}" if "of" in score else str(score["n"])


def percent(score: dict[str, Any]) -> str:
    return f"{score['percent']:.1f} % ({score['correct']})"


def adversary(evaluation: dict[str, Any]) -> str:
    """Return the attack of RA; for a network without gradients it is Square."""
    words = attack(evaluation["attack"])
    if evaluation.get("attacks") == "queries":
        return f"Square-{evaluation.get('queries', 1000)} {words.partition(' ')[2]}"
    return words


def attack(settings: dict[str, Any]) -> str:
    """Return an attack in words, such as PGD-20 l∞ 8/255, with ε in 255ths if it is a multiple of them."""
    eps = settings["ball"]["eps"]
    of_255 = round(eps * 255)
    size = f"{of_255}/255" if abs(eps * 255 - of_255) < 1e-6 else f"{eps:g}"
    norm = {"Linf": "l∞", "L2": "l2", "L1": "l1"}[settings["ball"]["type"]]
    return f"{attack_kind(settings)} {norm} {size}"


def attack_kind(settings: dict[str, Any]) -> str:
    """Return PGD with its steps, PGD-20, or the name of another attack."""
    if settings.get("type", "PGD") == "PGD":
        return f"PGD-{settings['steps']}"
    return settings.get("name") or settings["type"]


def spread(runs: list[dict[str, Any]], score: str) -> str:
    """Return mean ± standard deviation over runs with the count of each; the mean corruption accuracy has no counts."""
    score = MEASURED.get(score, score)
    if any(score not in run for run in runs):
        return "–"
    if score == "corruption_accuracy":
        return f"{_mean([run[score]['mean'] for run in runs])} %"
    counts = ", ".join(_count(run[score], run["robust"]) for run in runs)
    return f"{_mean([run[score]['percent'] for run in runs])} % ({counts})"


def _count(score: dict[str, Any], usual: dict[str, Any]) -> str:
    """Return the count, and of how many images if these are fewer than the row says."""
    return f"{score['correct']}" + (f" of {score['n']}" if score["n"] < usual["n"] else "")


def _mean(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def seconds(result: dict[str, Any]) -> float:
    """Return the seconds of pre-training, fine-tuning and evaluation together; NaN if one of them is unknown."""
    return sum(nan if value is None else value for value in result["seconds"].values())
