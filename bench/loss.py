"""NT-Xent and its gradient, in time and memory: ours against full matrices and autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.clock import paired, tell, timed
from bench.literal import contrast as literal
from bench.memory import peak
from unshaken.base.rng import Key
from unshaken.losses import contrastive as contrast

TAU, WIDTH = 0.5, 512
SIDES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ours": contrast.nt_xent,
    "literal": literal.nt_xent,
    "cross_entropy": literal.nt_xent_as_classification,
}


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Compare by rows: 2N embeddings of width 512; the ratios are those of the largest N."""
    by_rows = {}
    for rows in (64, 512) if quick else (128, 256, 512, 1024, 2048, 4096, 8192):
        repeats, seconds = max(1, 2**22 // rows**2), {side: [] for side in SIDES}
        for k in range(rounds + 1):
            for side in SIDES:
                took, _ = timed(prepared(side, rows, repeats, k))
                if k:  # the first is to warm up
                    seconds[side].append(took / repeats)
        result = paired(seconds, "ours", "literal")
        by_rows[rows] = {
            "ms": {side: round(1e3 * median(times), 3) for side, times in seconds.items()},
            "ratio": result["ratio"],
            "spread": result["spread"],
            "mb": {side: round(peak(prepared, side, rows)[0], 1) for side in SIDES},
        }
        tell(f"2N = {rows}: {by_rows[rows]}")
    mb = by_rows[rows]["mb"]
    return result | {"rows": rows, "memory_ratio": round(mb["literal"] / mb["ours"], 1), "by_rows": by_rows}


def prepared(side: str, rows: int, repeats: int = 1, seed: int = 0) -> Callable[[], None]:
    """Draw embeddings, and return the function that computes loss and gradient."""
    z = torch.randn((2, rows // 2, WIDTH), generator=Key(seed).on("cpu")).requires_grad_()
    _gradient(SIDES[side], torch.randn(2, 8, 8).requires_grad_(), 1)  # loads what a first call needs
    return partial(_gradient, SIDES[side], z, repeats)


def _gradient(loss: Callable[[Tensor, float], Tensor], z: Tensor, repeats: int) -> None:
    for _ in range(repeats):
        torch.autograd.grad(loss(z, TAU), z)
