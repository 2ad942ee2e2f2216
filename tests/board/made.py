"""Results that agree with themselves, made without a network: for tests of boards and pages."""

import copy
import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy

from unshaken.base.json_files import with_checksum
from unshaken.base.packed_bits import pack_bits
from unshaken.board.check import identity, wilson


def score(bits: numpy.ndarray) -> dict[str, Any]:
    correct, n = int(bits.sum()), len(bits)
    low, high = wilson(correct, n)
    interval = [round(100 * low, 2), round(100 * high, 2)]
    return {
        "correct": correct,
        "n": n,
        "percent": round(100 * correct / n, 2),
        "interval95": interval,
        "bits": pack_bits(bits),
    }


def result(
    method: str = "acl",
    mode: str = "slf",
    seed: int = 1,
    accuracy: float = 0.8,
    n: int = 200,
    eps: float = 0.1,
    **more: Any,
) -> dict[str, Any]:
    """A result of layout 2 with its digest. more: fields of the recipe of pre-training; "autoattack" asks for AA."""
    stream = numpy.random.default_rng([seed, round(1000 * accuracy), len(method), ord(mode[0])])
    difficulty = numpy.random.default_rng(7).random(n)  # of the images: alike for all
    clean = stream.random(n) < 0.97
    robust = clean & (stream.random(n) * 0.4 + difficulty * 0.6 < accuracy)
    name = json.dumps([method, mode, seed, accuracy, n, sorted(more.items())])
    auto = more.pop("autoattack", False)
    recipe = {
        "type": "Pretrain",
        "name": method,
        "method": {"type": "ACL"},
        "data": {"type": "DataSource", "name": "digits", "root": "data"},
        "backbone": {"type": "Backbone", "name": "resnet-small"},
        "epochs": 30,
        "batch_size": 128,
        "seed": seed,
    } | more
    evaluation = {
        "type": "Evaluation",
        "attack": {
            "type": "PGD",
            "ball": {"type": "Linf", "eps": eps},
            "steps": 20,
            "rel_step_size": 0.25,
            "restarts": 1,
        },
        "autoattack": "standard" if auto else "none",
        "corruptions": [],
        "severities": [1, 2, 3, 4, 5],
        "batch_size": 256,
        "limit": None,
        "until": None,
        "seed": 1,
    }
    found = {
        "version": 2,
        "method": method,
        "mode": mode,
        "data": {"name": "digits", "split": "test", "n": n, "digest": "8874fd9f"},
        "standard": score(clean),
        "robust": score(robust),
        "checks": [],
        "seeds": {"pretrain": seed, "finetune": seed, "evaluation": 1},
        "seconds": {"pretrain": 60.0 + 40 * accuracy, "finetune": 2.5, "evaluation": 1.5},
        "weights": blake2b(name.encode(), digest_size=16).hexdigest(),
        "evaluation": evaluation,
        "finetune": {
            "recipe": {
                "type": "Finetune",
                "method": {"type": mode.upper()},
                "epochs": 25,
                "batch_size": 128,
                "seed": seed,
            }
        },
        "pretrain": {"recipe": recipe, "data": {"precision": "float32"}},
        "world": {"unshaken": "0.1.0", "torch": "2.13.0", "device": "cpu", "threads": 1, "precision": "float32"},
    }
    if auto:
        harder = robust & (stream.random(n) < 0.95)
        stages = {"apgd-ce": score(robust), "square": score(harder)}
        found["autoattack"] = score(harder) | {"version": "standard", "stages": stages}
    return with_checksum(found | {"notes": identity(found)})


def flipped(text: str) -> str:
    """Bits with the first of them turned over."""
    first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"
    table = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    assert text[0] in first
    return table[table.index(text[0]) ^ 32] + text[1:]


def _set(path: str, value: Any) -> Any:
    def tamper(found: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            found = found[key]
        found[last] = value(found[last]) if callable(value) else value

    return tamper


def _both_seeds(found: dict[str, Any]) -> None:
    found["seeds"]["evaluation"] = found["evaluation"]["seed"] = 9


def _a_seed_twice(found: dict[str, Any]) -> None:
    found["seeds"]["pretrain"] = found["pretrain"]["recipe"]["seed"] = 9


ALL, NONE = (score(bits) for bits in (numpy.ones(200, bool), numpy.zeros(200, bool)))
TAMPERED = {
    "a count": (_set("robust.correct", lambda v: v + 1), "robust: it counts"),
    "a clean count": (_set("standard.correct", lambda v: v - 1), "standard: it counts"),
    "a bit": (_set("robust.bits", flipped), "robust: it counts"),
    "bits of another length": (_set("robust.bits", lambda v: v[:-4]), "robust: its bits are"),
    "bits that are no text": (_set("robust.bits", lambda v: "?" + v[1:]), "robust: its bits are not base 64"),
    "a percentage": (_set("robust.percent", lambda v: round(v + 1, 2)), "robust: "),
    "an interval": (_set("robust.interval95", lambda v: [v[0] + 1, v[1]]), "robust: its interval"),
    "how many images": (_set("data.n", lambda v: v + 8), "standard: it speaks of"),
    "a seed in the list": (_set("seeds.pretrain", 9), "seeds: it says 9 for pretrain, and its recipe 1"),
    "a seed in a recipe": (_set("finetune.recipe.seed", 9), "seeds: it says 1 for finetune, and its recipe 9"),
    "the seed of the evaluation, twice": (_both_seeds, "notes: "),
    "ε": (_set("evaluation.attack.ball.eps", 0.05), "notes: "),
    "the weights": (_set("weights", "0" * 32), "notes: "),
    "a seed, twice": (_a_seed_twice, "checksum: it is not"),
    "a time": (_set("seconds.pretrain", 1.0), "checksum: it is not"),
    "the checksum itself": (lambda found: found.pop("checksum"), "checksum: it has none"),
    "the last stage of AutoAttack": (
        _set("autoattack.stages.square", score(numpy.ones(200, bool))),
        "autoattack: its bits",
    ),
    "a stage of AutoAttack": (
        _set("autoattack.stages.apgd-ce", score(numpy.zeros(200, bool))),
        "square: an image is right",
    ),
    "a missing part": (lambda found: found.pop("evaluation"), "it is not a result: it has no 'evaluation'"),
    "a part of another kind": (_set("robust", 5), "it is not a result of this layout"),
    "a layout to come": (_set("version", 99), "its layout is version 99"),
}
"""What may be changed in a result, and how the refusal begins."""


def tampered(name: str) -> tuple[dict[str, Any], str]:
    found = copy.deepcopy(result(autoattack=True))
    tamper, said = TAMPERED[name]
    tamper(found)
    return found, said


def write(folder: Path, found: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, each in enumerate(found):
        (folder / f"{each['method']}-{each['mode']}-{k}.json").write_text(json.dumps(each, indent=1))
    return folder


def some() -> list[dict[str, Any]]:
    """Three methods, two modes, three seeds; the third method once more with other epochs; one row with AutoAttack."""
    strengths = {"acl": 0.7, "dynacl": 0.72, "simclr": 0.3}
    found = [
        result(method, mode, seed, accuracy + 0.003 * seed, autoattack=method == "dynacl")
        for method, accuracy in strengths.items()
        for mode in ("slf", "alf")
        for seed in (1, 2, 3)
    ]
    return found + [result("acl", "slf", seed, 0.8 + 0.003 * seed, epochs=100) for seed in (1, 2, 3)]


def resealed(found: dict[str, Any]) -> dict[str, Any]:
    """With the digests of what it says now: as a careful forger would leave it."""
    found = {key: value for key, value in found.items() if key not in ("checksum", "notes")}
    return with_checksum(found | {"notes": identity(found)})
