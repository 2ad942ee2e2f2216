"""A-InfoNCE as released: other hard negatives, and other weights of pairs.

yqy2001/A-InfoNCE at b28763e: Asym-AdvCL/losses.py and pretraining_advCL.py, Asym-RoCL/loss.py.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import log

import torch
from torch import Tensor, nn

from unshaken.base.types import Float
from unshaken.losses.contrastive import log_debiased, negative_count, same_image, similarities, zero_diagonal

ROCL_IP_SCALE = 0.5
"""The pairs of an adversarial and a clean view have the weight w in Asym-RoCL, where the paper has 2 w."""


def advcl_hard_pairs(
    z: Float[Tensor, "V N D"], tau: float, tau_plus: float, beta: float, others: Float[Tensor, "V N D"] | None = None
) -> Float[Tensor, "V V N"]:
    """Return l[u, v, k] of `pairwise_hard_negative` as Asym-AdvCL computes it.

    The floor is M, as if negatives were orthogonal to the anchor and not opposite, and the denominator is that of v.
    """
    log_negative, positive = released_negatives(z, tau, beta, others)
    log_total = log_debiased(log_negative, positive, negative_count(z), tau_plus, log(negative_count(z)))
    return zero_diagonal(log_total[None] - positive)


def rocl_hard_pairs(
    z: Float[Tensor, "V N D"], tau: float, tau_plus: float, beta: float, others: Float[Tensor, "V N D"] | None = None
) -> Float[Tensor, "V V N"]:
    """Return l[u, v, k] of `pairwise_hard_negative` as Asym-RoCL computes it.

    Its code writes the floor for τ = 0.5, as Asym-AdvCL's does. Here the floor follows τ.
    """
    log_negative, positive = released_negatives(z, tau, beta, others)
    log_total = log_debiased(log_negative, positive, negative_count(z), tau_plus, log(negative_count(z)) - 1 / tau)
    return zero_diagonal(log_total[:, None] - positive)


def released_negatives(
    z: Float[Tensor, "V N D"], tau: float, beta: float, others: Float[Tensor, "V N D"] | None
) -> tuple[Float[Tensor, "V N"], Float[Tensor, "V V N"]]:
    """Return the log of Σ e^(1+β) / mean e^β over the negatives of each anchor, and the similarities of positives.

    Each term is divided by the mean over its own column, where the paper has that of the anchor's row. The mean counts
    a zero for each entry that is no negative.
    """
    similarity, same = similarities(z, others, tau), same_image(z)
    log_mean = (beta * similarity).masked_fill(same, -torch.inf).flatten(2).logsumexp(-1) - log(len(z) * z.shape[1])
    log_negative = ((1 + beta) * similarity - log_mean).masked_fill(same, -torch.inf).flatten(2).logsumexp(-1)
    return log_negative, similarity.diagonal(dim1=1, dim2=3)


def overwrite(l_uv: Float[Tensor, "4 4 N"], weight: float) -> Float[Tensor, "4 4 N"]:
    """Return w l[a, c] at [a, c] and w² l[a, c] at [c, a], where a is view 0: the code overwrites what it still reads.

    It does so where no gradient is stopped: in the attack, and in the update without inferior positives.
    """
    l_uv = l_uv.clone()
    l_uv[0] = weight * l_uv[0]
    l_uv[:, 0] = weight * l_uv[0]
    return l_uv


def nearness(paper: Float[Tensor, ""], d: Float[Tensor, ""], d_avg: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return 0 wherever d > d_avg, which the code tests first, even where d < d_min; elsewhere the paper's value."""
    return torch.where(d > d_avg, torch.zeros_like(paper), paper)


def feature_mode(h: nn.Module) -> AbstractContextManager[None]:
    """Leave the network in train mode for d: the clean statistics are updated twice more."""
    return nullcontext()
