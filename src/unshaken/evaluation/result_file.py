"""Reading a result file, with checks of its checksum, its fields, and its counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_json
from unshaken.base.json_shapes import Each, Items, Number, Or, Whole, check_shape
from unshaken.base.packed_bits import count_bits

PERCENT = Number(0, 100)
SECONDS = Or((Number(0), None))
SEED = Or((Whole(), str, None))
SCORE = {
    "correct": Whole(0),
    "n": Whole(1),
    "percent": PERCENT,
    "interval95": Items(PERCENT, 2, 2),
    "bits": str,
    "of?": Whole(1),
    "judged?": str,
    "seconds?": SECONDS,
}
CORESET = {"type": str, "fraction?": Number(0, 1), "warmup?": Number(0)}
RESULT = {
    "version?": Whole(1),
    "method": str,
    "mode": str,
    "data": {"name": str, "split": str, "n": Whole(1), "digest": str},
    "standard": SCORE,
    "robust": SCORE,
    "autoattack?": SCORE | {"stages?": Each(SCORE)},
    "corruptions?": Each(Each(SCORE)),
    "corrupted?": {"constants?": str, "substitutes?": {}},
    "corruption_accuracy?": {"mean": PERCENT},
    "checks?": Items({}),
    "seeds": {"pretrain": SEED, "finetune": SEED, "evaluation": SEED},
    "seconds": {"pretrain": SECONDS, "finetune?": SECONDS, "evaluation?": SECONDS},
    "spent?": Or((Each(Number(0)), None)),
    "cost?": Each(Number(0)),
    "date?": str,
    "weights": str,
    "evaluation": {
        "attack": {"steps?": Whole(0), "type?": str, "ball": {"type": ("Linf", "L2", "L1"), "eps": Number(0)}}
    },
    "pretrain": {"recipe": {"name?": str, "epochs?": Number(0), "coreset?": Or((CORESET, None))}},
    "finetune": {"recipe": {"method?": {"type": str}}},
    "world": {},
    "notes?": str,
}
"""The shape of a result."""


def read_result(path: Path) -> dict[str, Any]:
    """Read a result. ValueError, in one line that names the file, if it is damaged or something else."""
    found = check_shape(read_json(path), RESULT, f"{path} is not a result")
    attack = found["evaluation"]["attack"]
    if attack.get("type", "PGD") == "PGD" and "steps" not in attack:
        raise ValueError(f"{path} is not a result: it has no 'evaluation.attack.steps'")
    for name, score in scores_of(found):
        if not _counts_agree(score):
            raise ValueError(f"{path} was altered: the numbers of {name} are not those of its verdicts")
    return found


def scores_of(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every score of a result with its name."""
    yield from ((name, result[name]) for name in ("standard", "robust", "autoattack") if name in result)
    yield from result.get("autoattack", {}).get("stages", {}).items()
    for name, by in result.get("corruptions", {}).items():
        yield from ((f"{name}/{level}", score) for level, score in by.items())


def _counts_agree(score: dict[str, Any]) -> bool:
    """Return whether a score's numbers agree with its bits."""
    total = score.get("of", score["n"])
    try:
        right = count_bits(score["bits"], total)
        judged = count_bits(score["judged"], total) if "judged" in score else total
    except ValueError:
        return False
    return (right, judged, round(100 * right / score["n"], 2)) == (score["correct"], score["n"], score["percent"])
