"""Checks that a result is consistent: counts with bits, seeds with recipes, digests."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from math import ceil, sqrt
from typing import Any

import numpy

from unshaken.base.checksum import checksum_of
from unshaken.base.json_files import parse_json
from unshaken.base.packed_bits import unpack_bits
from unshaken.base.serialize import short_hash
from unshaken.corruptions.severity import FIFTEEN

Result = dict[str, Any]
NEEDED = (
    "method",
    "mode",
    "data",
    "standard",
    "robust",
    "seeds",
    "seconds",
    "weights",
    "evaluation",
    "finetune",
    "pretrain",
)
LAYOUTS = (1, 2)
"""Supported versions of the layout. Results of the first have no version field."""


def fault(result: Any) -> str | None:
    """Return what is wrong with a result, in one line, or None. The page checks the same in the browser (check.js)."""
    try:
        return next(faults(result), None)
    except (KeyError, TypeError, AttributeError) as error:
        return f"it is not a result of this layout ({type(error).__name__}: {error})"


def faults(result: Any) -> Iterator[str]:
    """Yield everything that is wrong, the first cause first."""
    if not isinstance(result, dict):
        yield "it is not a result: it is no JSON object"
        return
    for key in NEEDED:
        if key not in result:
            yield f"it is not a result: it has no {key!r}"
            return
    if result.get("version", 1) not in LAYOUTS:
        yield f"its layout is version {result['version']}, and this program knows {LAYOUTS[0]} and {LAYOUTS[-1]}"
        return
    total = expected_total(result)
    for name, score in scores(result):
        yield from score_faults(name, score, total)
    yield from order_faults(result)
    yield from seed_faults(result)
    yield from digest_faults(result)


def scores(result: Result) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every score of a result by name."""
    yield "standard", result["standard"]
    yield "robust", result["robust"]
    if "autoattack" in result:
        yield "autoattack", result["autoattack"]
        yield from ((f"autoattack {name}", stage) for name, stage in result["autoattack"].get("stages", {}).items())
    for name, by in result.get("corruptions", {}).items():
        yield from ((f"{name}/{level}", score) for level, score in by.items())


def expected_total(result: Result) -> int:
    """Return the number of images that the bits have to cover: the set's, or the limit if it is smaller."""
    limit = result["evaluation"].get("limit")
    return result["data"]["n"] if limit is None else min(limit, result["data"]["n"])


def score_faults(name: str, score: dict[str, Any], total: int) -> Iterator[str]:
    of = score.get("of", score["n"])
    if of != total:
        yield f"{name}: it speaks of {of} images, and the set has {total}"
        return
    for key in ("bits", "judged"):
        if key in score and (wrong := text_fault(score[key], of)):
            yield f"{name}: its {key} {wrong}"
            return
    bits = unpack_bits(score["bits"], of)
    judged = unpack_bits(score["judged"], of) if "judged" in score else numpy.ones(of, bool)
    if int(judged.sum()) != score["n"]:
        yield f"{name}: it says that {score['n']} images were judged, and its bits say {int(judged.sum())}"
    if int(bits.sum()) != score["correct"]:
        yield f"{name}: it counts {score['correct']} right answers, and its bits {int(bits.sum())}"
    if (bits & ~judged).any():
        yield f"{name}: an image is right that was not judged"
    if not score["n"] > 0:
        yield f"{name}: no image was judged"
        return
    if abs(score["percent"] - 100 * score["correct"] / score["n"]) > 0.0051:
        yield f"{name}: {score['percent']:.2f} % is not {score['correct']} of {score['n']}"
    low, high = wilson(score["correct"], score["n"])
    if max(abs(score["interval95"][0] - 100 * low), abs(score["interval95"][1] - 100 * high)) > 0.0151:
        yield f"{name}: its interval is not that of {score['correct']} of {score['n']}"


def text_fault(text: str, n: int) -> str | None:
    """Return what is wrong with packed bits: another length, another alphabet, or bits beyond the last image."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except (ValueError, TypeError):
        return "are not base 64"
    if len(raw) != ceil(n / 8):
        return f"are {8 * len(raw)}, and there are {n} images"
    if n % 8 and raw[-1] & (0xFF >> n % 8):
        return "go on after the last image"
    return None


def order_faults(result: Result) -> Iterator[str]:
    """Yield images that are correct after an attack but not before it, and scores that disagree with their stages."""
    chains = [[("standard", result["standard"]), ("robust", result["robust"])]]
    auto = result.get("autoattack")
    if auto:
        stages = list(auto.get("stages", {}).items())
        chains.append([("standard", result["standard"]), *stages])
        if stages and stages[-1][1]["bits"] != auto["bits"]:
            yield "autoattack: its bits are not those of its last stage"
    for chain in chains:
        for (before, a), (after, b) in zip(chain, chain[1:], strict=False):
            of = a.get("of", a["n"])
            judged = unpack_bits(a["judged"], of) if "judged" in a else numpy.ones(of, bool)
            if of == b.get("of", b["n"]) and (unpack_bits(b["bits"], of) & judged & ~unpack_bits(a["bits"], of)).any():
                yield f"{after}: an image is right that was wrong before it ({before})"
    means = corruption_means(result.get("corruptions", {}))
    stored = result.get("corruption_accuracy", {})
    if any(abs(stored[key] - value) > 0.0051 for key, value in means.items() if key in stored):
        yield "corruption_accuracy: its means are not those of its counts"


def seed_faults(result: Result) -> Iterator[str]:
    """Yield seeds that differ from those in the recipes: a result has each seed twice."""
    seeds, evaluation = result["seeds"], result["evaluation"]["seed"]
    recipes = {part: result[part]["recipe"].get("seed") for part in ("pretrain", "finetune")} | {
        "evaluation": evaluation
    }
    for part, seed in recipes.items():
        if seeds.get(part) != seed:
            yield f"seeds: it says {seeds.get(part)} for {part}, and its recipe {seed}"


def digest_faults(result: Result) -> Iterator[str]:
    """Yield a wrong identity (a hash of evaluation, weights, images and environment) and a wrong checksum."""
    if result.get("version", 1) == 2 and "notes" in result and result["notes"] != identity(result):
        yield f"notes: {result['notes']} is not the digest of its evaluation, seed, weights, images and world"
    if "checksum" not in result:
        yield "checksum: it has none; `unshaken verify --write FILE` adds one, where the file is trusted"
    elif not checksum_holds(result):
        yield "checksum: it is not that of the file: something in it was changed"


def identity(result: Result) -> str:
    """Return the hash that names a file of verdicts (evaluation/verdict_log.py), of values as Python prints them."""
    blank = {"autoattack": "none", "corruptions": [], "severities": [1, 2, 3, 4, 5], "published": None, "until": None}
    absent = ("autoattack_limit", "attacks", "queries")  # they have their defaults there, and are then left out
    choices = {key: blank.get(key, value) for key, value in result["evaluation"].items() if key not in absent}
    return short_hash([str(part) for part in (choices, result["weights"], result["data"]["digest"], result["world"])])


def checksum_holds(content: dict[str, Any]) -> bool:
    """Return whether an object's checksum is that of its other fields, as base/json_files.py writes it."""
    return content.get("checksum") == checksum_of({key: v for key, v in content.items() if key != "checksum"})


def corruption_means(by: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return, in percent, CS-1 to CS-5 over the corruptions there are, and their mean."""
    levels = sorted({level for scores in by.values() for level in scores})
    found = {}
    for level in levels:
        counted = [scores[level] for name, scores in by.items() if level in scores and name in FIFTEEN]
        if len(counted) == len(FIFTEEN):
            found[f"CS-{level}"] = sum(100 * score["correct"] / score["n"] for score in counted) / len(counted)
    return found | ({"mean": sum(found.values()) / len(found)} if len(found) == 5 else {})


def wilson(correct: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson 1927), as evaluation/verdicts.py has it."""
    p, zz = correct / n, z * z
    middle, half = p + zz / (2 * n), z * sqrt(max(0.0, p * (1 - p)) / n + zz / (4 * n * n))
    return max(0.0, (middle - half) / (1 + zz / n)), min(1.0, (middle + half) / (1 + zz / n))


def unwrapped(content: Any) -> tuple[Any, dict[str, Any]]:
    """Return a result and what a submission says beside it. ValueError if the submission's checksum is not its own."""
    if not (isinstance(content, dict) and "submission" in content):
        return content, {}
    if not checksum_holds(content):
        raise ValueError("checksum: it is not that of the submission: something in it was changed")
    return content.get("result"), {key: value for key, value in content.items() if key not in ("result", "checksum")}


def read(text: str) -> tuple[Result, dict[str, Any]]:
    """Return a checked result and what a submission says beside it. ValueError says, in one line, what is wrong."""
    result, beside = unwrapped(parse_json(text, "it"))
    if wrong := fault(result):
        raise ValueError(wrong)
    return result, beside
