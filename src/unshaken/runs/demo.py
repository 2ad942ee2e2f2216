"""The demo: what the field claims, on scikit-learn's digits, in minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unshaken.compute.runtime import Runtime
from unshaken.recipes.catalog import recipe
from unshaken.recipes.finetune import MODES, protocol
from unshaken.runs.evaluate import default_evaluation, evaluate

METHODS = ("simclr", "acl", "acl-air")
BLOCK = 64
"""Images of a block of the exam; AutoAttack, which takes as long as all the rest, is for the first block under SLF."""


def demo(
    root: Path,
    runtime: Runtime,
    methods: tuple[str, ...] = METHODS,
    modes: tuple[str, ...] = MODES,
    tell: Callable[[str], None] = lambda _: None,
    quiet: bool = True,
) -> Iterator[dict[str, Any]]:
    """Pre-train by each method, fine-tune by each mode, examine: one result after the other.

    Everything lies under `root` and is found again there, so a demo that was stopped goes on.
    """
    for method in methods:
        tell(f"{method}: pre-training without labels")
        encoder = recipe(f"{method}/digits").run(root, runtime, quiet=quiet)
        for mode in modes:
            tell(f"{method}: {mode.upper()}")
            run = protocol(mode, encoder).run(encoder, runtime=runtime, quiet=quiet)
            result = judged(run, mode, runtime, quiet)
            standard, robust = result["standard"], result["robust"]
            tell(f"{method}: {mode.upper()}  SA {standard['percent']:.1f} %  RA {robust['percent']:.1f} %")
            yield result


def judged(run: Path, mode: str, runtime: Runtime, quiet: bool) -> dict[str, Any]:
    """Clean images, PGD-20 and fifteen corruptions on the whole test set; AutoAttack on a block of random images."""
    evaluation = replace(default_evaluation(run), corruptions=("fifteen",), batch_size=BLOCK)
    if mode == "slf":
        evaluation = replace(evaluation, autoattack="standard", autoattack_limit=BLOCK)
    return evaluate(run, evaluation=evaluation, runtime=runtime, quiet=quiet)  # pyright: ignore[reportReturnType]
