"""Does the gain that RCS maximises forecast robustness? Random fifths of digits, their gain, and what comes of them.

`python -m bench rcs-gain`: ACL warms up on all images, the same each time; then it trains on a random fifth of the
mini-batches to the end. Before that, the gain of the fifth is measured as RCS has it, L_RD(U; θ) − L_RD(U; θ − η q),
where q is the sum of its gradients, and as the released code does. In the end: SLF, and PGD-20 on the test images.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

import unshaken
from bench.clock import tell
from unshaken.base.rng import Key
from unshaken.base.types import Int
from unshaken.compute.runtime import Runtime
from unshaken.coreset import released
from unshaken.coreset.objective import SelectionObjective
from unshaken.coreset.rcs import RCS, gradient, step
from unshaken.coreset.selector import Selector, check_budget
from unshaken.methods.acl import ACL
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.plan import with_epochs
from unshaken.train.attack_policy import with_attack_steps

DRAWS, WARMUP, EPOCHS = 20, 8, 20
GAINS: dict[int, tuple[float, float]] = {}
"""By draw: the gain as in the paper and, to first order, as in the released code."""


@dataclass(frozen=True)
class Draw(Selector):
    """Random mini-batches, a different set for each number; their gain is measured as they are drawn."""

    draw: int = 0

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[torch.Tensor, "count"]:
        check_budget(problem, count)
        order = torch.randperm(len(problem.batches), generator=(key / "draw" / self.draw).on("cpu"))
        chosen, total = [], 0
        for batch in order.tolist():
            if total < count:
                chosen.append(batch)
                total += len(problem.batches[batch])
        GAINS[self.draw] = gains(problem, chosen)
        return torch.cat([problem.batches[batch] for batch in chosen])[:count]


def gains(problem: SelectionObjective, chosen: list[int]) -> tuple[float, float]:
    """Return the gain of these mini-batches as in the paper, and as in the released code."""
    rcs, q = RCS(), problem.gradients(range(len(problem.batches)), "batch")
    moved = problem.theta
    for batch in chosen:
        moved = step(moved, q.of(batch), rcs.eta)
    rd = problem.validation(problem.theta, "kl", rcs.attack)
    theirs = problem.validation(problem.theta, released.DISTANCE, rcs.attack)
    r = released.average_outputs(gradient(theirs, problem.theta))
    return float(rd(problem.theta) - rd(moved)), float(q.along(r)[torch.tensor(chosen)].sum())


def one(draw: int, folder: str, warmup: int, epochs: int) -> tuple[int, int]:
    """Return how many test images an encoder trained on this draw classifies, clean and under PGD-20."""
    made = unshaken.recipe("acl/digits")
    assert isinstance(made, Pretrain)
    made = with_epochs(made, epochs)
    assert isinstance(made.method, ACL)
    made = replace(
        made,
        method=with_attack_steps(made.method, 2),
        coreset=Draw(fraction=0.2, warmup=warmup, every=None, validation=0.05, batch_size=16, draw=draw),
    )
    workspace = unshaken.Workspace(folder, Runtime(threads=1), quiet=True)
    run = unshaken.pretrain(made, workspace)
    result = unshaken.evaluate(unshaken.finetune(run, "slf", replace(workspace, root=None)), workspace=workspace)
    assert result is not None
    return result["standard"]["correct"], result["robust"]["correct"]


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Return gains and accuracies of all draws, and Spearman's rank correlations with their p-values."""
    draws, warmup, epochs = (3, 1, 2) if quick else (DRAWS, WARMUP, EPOCHS)
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        for draw in range(draws):
            scores.append(one(draw, folder, warmup, epochs))
            tell(f"draw {draw}: gains {GAINS[draw][0]:.3g} and {GAINS[draw][1]:.3g}, SA and RA {scores[-1]}")
    found = {"paper": [GAINS[d][0] for d in range(draws)], "released": [GAINS[d][1] for d in range(draws)]}
    robust = [ra for _, ra in scores]
    return {
        "draws": draws,
        "n": 445,
        "standard": [sa for sa, _ in scores],
        "robust": robust,
        "gains": {name: [float(f"{value:.4g}") for value in values] for name, values in found.items()},
        "spearman": {
            name: {"rho": round(float(test.statistic), 3), "p": round(float(test.pvalue), 3)}
            for name, values in found.items()
            for test in [spearmanr(values, robust)]
        },
    }
