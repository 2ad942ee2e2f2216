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
    if logits.shape[1] < 3:
        return -margin(logits, y)
    top = logits.topk(3, 1).values
    return -margin(logits, y) / _spread(top[:, 0] - top[:, 2])


def targeted_dlr(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"], target: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """−(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2)   (Croce and Hein, ICML 2020, eq. 7).

    Of fewer than four classes the difference is not divided: with z_π3 alone the ratio would be −1 wherever the target
    is last, without a gradient.
    """
    gap = _of(logits, target) - _of(logits, y)
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, 1).values
    return gap / _spread(top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def likeliest(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"], count: int) -> Int[Tensor, "N T"]:
    """The wrong classes with the highest logits, highest first; T = min(count, K − 1)."""
    return logits.scatter(1, y[:, None], -inf).topk(min(count, logits.shape[1] - 1), 1).indices


def _of(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    return logits.gather(1, y[:, None]).squeeze(1)


def _spread(difference: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Equal logits have no gradient worth following, but must not divide by zero."""
    return difference.clamp_min(1e-12)
