"""Divergences of distributions and distances of embeddings: KL, JS, optimal transport."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.types import Float


def kl(log_p: Float[Tensor, "N"], log_q: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Return KL(p ‖ q) = Σ_k p_k (log p_k − log q_k), from logarithms. Neither p nor q has to sum to 1."""
    return (log_p.exp() * (log_p - log_q)).sum()


def kl_rows(p_logits: Float[Tensor, "N K"], q_logits: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """Return KL(softmax p ‖ softmax q) of each row."""
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def js_rows(p_logits: Float[Tensor, "N K"], q_logits: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """Return ½ KL(p ‖ m) + ½ KL(q ‖ m),   m = (p + q)/2,   of the softmaxes of each row: from 0 to log 2.

    (The released code of RCS has KL's arguments the other way round: GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef.)
    """
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - log(2)
    return ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1)) / 2


def minmax_rows(z_adv: Float[Tensor, "N D"], z: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    """Return the mean over dimensions of q (log q − log p), where q and p are rows of z̃ and z scaled to [0, 1], + 1e-8.

    This is what the released code of RCS computes as KL (GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef,
    small_scale_datasets/RCS.py). Each row is scaled by its own minimum and maximum. It does not sum to 1 then, so this
    is no divergence of distributions.
    """
    q, p = (_scale_rows(rows.float()) + 1e-8 for rows in (z_adv, z))
    return (q * (q.log() - p.log())).mean(-1)


def _scale_rows(rows: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Scale each row to [0, 1] by its minimum and maximum."""
    rows = rows - rows.amin(-1, keepdim=True)
    return rows / rows.amax(-1, keepdim=True)


def sinkhorn(
    p_logits: Float[Tensor, "N K"], q_logits: Float[Tensor, "M K"], blur: float = 0.01, iterations: int = 100
) -> Float[Tensor, ""]:
    """Return min_T Σ T_ij C_ij + blur · KL(T ‖ 1/NM),   C_ij = 1 − cos(softmax p_i, softmax q_j).

    T has uniform marginals.     The coupling is between two batches: row i may go to any row j, as in FeatureScatter
    (Zhang and Wang, NeurIPS 2019, arXiv:1907.10764) and in the released code of RCS. A distance of each pair of rows
    would need a cost between the dimensions of an embedding, which no paper defines. Sinkhorn's iterations run in
    logarithms. The gradient is that of the minimum, ∂/∂C = T. (The released code differentiates the iterations.)
    """
    p, q = (normalize(logits.float().softmax(-1), dim=-1) for logits in (p_logits, q_logits))
    cost = 1 - p @ q.T
    with torch.no_grad():
        log_ratio = _log_coupling(cost / blur, iterations)
        plan = log_ratio.exp() / cost.numel()
    return (plan * cost).sum() + blur * (plan * log_ratio).sum()


def _log_coupling(cost: Float[Tensor, "N M"], iterations: int) -> Float[Tensor, "N M"]:
    """Return log(N M T), where T minimises Σ T C + KL(T ‖ 1/NM) and has uniform marginals."""
    rows, columns = cost.shape
    g = cost.new_zeros(columns)
    for _ in range(iterations):
        f = log(columns) - (g - cost).logsumexp(1)
        g = log(rows) - (f[:, None] - cost).logsumexp(0)
    return f[:, None] + g - cost


Distance = Literal["kl", "js", "ot", "minmax"]
"""d(z̃, z), the distance of adversarial from clean embeddings. kl: KL(softmax z̃ ‖ softmax z). js: `js_rows`. ot:
`sinkhorn`. minmax: `minmax_rows`, which the released code of RCS uses."""

ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl_rows, "js": js_rows, "minmax": minmax_rows}
"""Distances that are defined for each row: (N D), (N D) -> (N)."""


def representational_divergence(
    z_adv: Float[Tensor, "N D"], z: Float[Tensor, "N D"], distance: Distance = "kl"
) -> Float[Tensor, ""]:
    """Return the mean distance of adversarial from clean embeddings; for ot, the cost of coupling the batches."""
    return sinkhorn(z_adv, z) if distance == "ot" else ROWS[distance](z_adv, z).mean()
