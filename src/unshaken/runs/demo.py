"""The demo: the field's main claims on scikit-learn's digits, in minutes on two CPU cores."""

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
"""Images in a block. AutoAttack takes as long as everything else, so it is run on one block, and for SLF only."""


def demo(
    workspace: Workspace,
    methods: tuple[str, ...] = METHODS,
    modes: tuple[str, ...] = MODES,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Pre-train by each method, fine-tune by each mode, evaluate, and yield each result.

    All runs are in the workspace's root, so a demo that was stopped resumes there.
    """
    beside = replace(workspace, root=None)
    for method in methods:
        tell(f"{method}: pre-training without labels")
        encoder = pretrain(recipe(f"{method}/digits"), workspace)
        for mode in modes:
            tell(f"{method}: {mode.upper()}")
            result = evaluate_mode(finetune(encoder, mode, beside), mode, beside)
            standard, robust = result["standard"], result["robust"]
            tell(f"{method}: {mode.upper()}  SA {standard['percent']:.1f} %  RA {robust['percent']:.1f} %")
            yield result


def evaluate_mode(run: Path, mode: str, workspace: Workspace) -> dict[str, Any]:
    """Evaluate clean images, PGD-20 and the fifteen corruptions on all test images, AutoAttack on one random block."""
    evaluation = replace(default_evaluation(run), corruptions=("fifteen",), batch_size=BLOCK)
    if mode == "slf":
        evaluation = replace(evaluation, autoattack="standard", autoattack_limit=BLOCK)
    return evaluate(run, evaluation=evaluation, workspace=workspace) or {}
