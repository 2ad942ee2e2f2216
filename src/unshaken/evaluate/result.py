"""A result: counts and bits, with recipes, seeds, digests and the world beside them."""

from __future__ import annotations

from typing import Any

from unshaken.evaluate.verdicts import Verdicts


def result_of(
    about: dict[str, Any],
    exam: dict[str, Any],
    data: dict[str, Any],
    verdicts: dict[str, Verdicts],
    weights: str,
    seconds: dict[str, float | None],
    spent: dict[str, float] | None,
    world: dict[str, Any],
) -> dict[str, Any]:
    """What result.json holds.

    about    of the classifier's file: where its encoder and itself come from
    data     the set that was judged; weights is the digest of what was judged
    spent    what the seconds of pre-training went into, if that is known: warm-up, selections, training
    """
    pretrain, finetune = about["pretrain"]["recipe"], about["finetune"]["recipe"]
    return {
        "method": pretrain["name"],
        "mode": finetune["method"]["type"].lower(),
        "data": data,
        "standard": verdicts["clean"].summary(),
        "robust": verdicts["pgd"].summary(),
        "seeds": {"pretrain": pretrain["seed"], "finetune": finetune["seed"], "exam": exam["seed"]},
        "seconds": seconds,
        **({"spent": spent} if spent else {}),
        "weights": weights,
        "exam": exam,
        "finetune": about["finetune"],
        "pretrain": about["pretrain"],
        "world": world,
    }


def paper_log(result: dict[str, Any]) -> str:
    """The lines that the papers' own scripts leave in results/log.txt."""
    mode, steps = result["mode"].upper(), result["exam"]["attack"]["steps"]
    return (
        f"{mode} standard acc: {result['standard']['percent']:.2f}\n"
        f"{mode} PGD{steps} acc: {result['robust']['percent']:.2f}\n"
    )
