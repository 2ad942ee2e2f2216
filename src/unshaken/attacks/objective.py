"""Attack objectives: the margin of the label, and the difference of logits ratio (DLR)."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from unshaken.base.types import Float, Int


def margin(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return z_y − max_{i≠y} z_i: negative where the image is misclassified, −∞ if a logit is not finite."""
    others = logits.scatter(1, y[:, None], -inf).amax(1)
    return torch.where(logits.isfinite().all(1), _logit_of(logits, y) - others, -inf)


def dlr(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return −(z_y − max_{i≠y} z_i) / (z_π1 − z_π3),   z_π1 ≥ z_π2 ≥ ...   (Croce and Hein, ICML 2020, eq. 6).

    With two classes there is no z_π3, and the difference is not divided.
    """
    if logits.shape[1] < 3:
        return -margin(logits, y)
    top = logits.topk(3, 1).values
    return -margin(logits, y) / _spread(top[:, 0] - top[:, 2])


def targeted_dlr(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"], target: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return −(z_y − z_t) / (z_π1 − (z_π3 + z_π4)/2)   (Croce and Hein, ICML 2020, eq. 7).

    With fewer than four classes the difference is not divided: with z_π3 alone the ratio would be −1 wherever the
    target is last, without a gradient.
    """
    gap = _logit_of(logits, target) - _logit_of(logits, y)
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, 1).values
    return gap / _spread(top[:, 0] - (top[:, 2] + top[:, 3]) / 2)


def likeliest(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"], count: int) -> Int[Tensor, "N T"]:
    """Return the wrong classes with the highest logits, highest first; T = min(count, K − 1)."""
    return logits.scatter(1, y[:, None], -inf).topk(min(count, logits.shape[1] - 1), 1).indices


def _logit_of(logits: Float[Tensor, "N K"], y: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    return logits.gather(1, y[:, None]).squeeze(1)


def _spread(difference: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return a divisor that is never zero: equal logits have no useful gradient anyway."""
    return difference.clamp_min(1e-12)
