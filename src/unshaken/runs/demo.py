"""The demo: what the field claims, on scikit-learn's digits, in minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unshaken.recipes.catalog import recipe
from unshaken.recipes.finetune import MODES
from unshaken.runs.evaluate import default_evaluation, evaluate
from unshaken.runs.finetune import finetune
from unshaken.runs.pretrain import pretrain
from unshaken.runs.workspace import Workspace

METHODS = ("simclr", "acl", "acl-air")
BLOCK = 64
"""Images of a block of the evaluation; AutoAttack, which takes as long as all the rest, is for the first block under SLF."""


def demo(
    workspace: Workspace,
    methods: tuple[str, ...] = METHODS,
    modes: tuple[str, ...] = MODES,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Pre-train by each method, fine-tune by each mode, evaluate: one result after the other.

    Everything lies in the workspace's root and is found again there, so a demo that was stopped goes on.
    """
    beside = replace(workspace, root=None)
    for method in methods:
        tell(f"{method}: pre-training without labels")
        encoder = pretrain(recipe(f"{method}/digits"), workspace)
        for mode in modes:
            tell(f"{method}: {mode.upper()}")
            result = judged(finetune(encoder, mode, beside), mode, beside)
            standard, robust = result["standard"], result["robust"]
            tell(f"{method}: {mode.upper()}  SA {standard['percent']:.1f} %  RA {robust['percent']:.1f} %")
            yield result


def judged(run: Path, mode: str, workspace: Workspace) -> dict[str, Any]:
    """Clean images, PGD-20 and fifteen corruptions on the whole test set; AutoAttack on a block of random images."""
    evaluation = replace(default_evaluation(run), corruptions=("fifteen",), batch_size=BLOCK)
    if mode == "slf":
        evaluation = replace(evaluation, autoattack="standard", autoattack_limit=BLOCK)
    return evaluate(run, evaluation=evaluation, workspace=workspace)
