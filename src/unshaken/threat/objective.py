"""What an attack raises or lowers: the margin of the label, and the scale-free difference of logits ratio (DLR)."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from unshaken.base.types import Float, Int


def margin(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """z_y − max_{i≠y} z_i: negative where the label is not the answer; −∞ if a logit is no number."""
    others = logits.scatter(1, y[:, None], -inf).amax(1)
    return torch.where(logits.isfinite().all(1), _of(logits, y) - others, -inf)


def dlr(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """−(z_y − max_{i≠y} z_i) / (z_π1 − z_π3),   z_π1 ≥ z_π2 ≥ ...   (Croce and Hein, ICML 2020, eq. 6).

    Of two classes there is no z_π3, and the difference is not divided.
    """
    return -margin(logits, y) / _spread(logits, 1)


def targeted_dlr(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"], target: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """−(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2)   (Croce and Hein, ICML 2020, eq. 7).

    Of three classes there is no z_π4, and z_π3 stands alone; of two, the difference is not divided.
    """
    return -(_of(logits, y) - _of(logits, target)) / _spread(logits, 2)


def likeliest(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"], count: int) -> Int[Tensor, "N T"]:
    """The wrong classes with the highest logits, highest first; T = min(count, K − 1)."""
    return logits.scatter(1, y[:, None], -inf).topk(min(count, logits.shape[1] - 1), 1).indices


def _of(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    return logits.gather(1, y[:, None]).squeeze(1)


def _spread(logits: Float[Tensor, "N K"], deep: int) -> Float[Tensor, "N"]:
    """z_π1 less the mean of the logits from the third on, `deep` of them if there are so many; 1 of two classes."""
    if logits.shape[1] < 3:
        return torch.ones_like(logits[:, 0])
    top = logits.topk(min(2 + deep, logits.shape[1]), 1).values
    # equal logits have no gradient worth following, but must not divide by zero
    return (top[:, 0] - top[:, 2:].mean(1)).clamp_min(1e-12)
