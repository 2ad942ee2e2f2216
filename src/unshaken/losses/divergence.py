"""Divergence of distributions: KL over a batch; KL, Jensen-Shannon and optimal transport between embeddings."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.types import Float


def kl(log_p: Float[Tensor, "N"], log_q: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """KL(p ‖ q) = Σ_k p_k (log p_k − log q_k), both given as logarithms; neither has to sum to 1."""
    return (log_p.exp() * (log_p - log_q)).sum()


def kl_rows(p_logits: Float[Tensor, "N K"], q_logits: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """KL(softmax p ‖ softmax q) of each row."""
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def js_rows(p_logits: Float[Tensor, "N K"], q_logits: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """½ KL(p ‖ m) + ½ KL(q ‖ m),   m = (p + q)/2,   of each row's softmaxes: from 0 to log 2.

    (The coreset papers' code has KL's arguments the other way round: GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef.)
    """
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - log(2)
    return ((log_p.exp() * (log_p - log_m)).sum(-1) + (log_q.exp() * (log_q - log_m)).sum(-1)) / 2


def minmax_rows(z_adv: Float[Tensor, "N D"], z: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    """The mean over dimensions of q (log q − log p), q and p being the rows of z̃ and z scaled to [0, 1], plus 1e-8.

    It is the coreset papers' released KL (GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef, small_scale_datasets/RCS.py):
    a row is scaled by its own minimum and maximum, so it does not sum to 1 and this is no divergence of distributions.
    """
    q, p = (_scaled(rows.float()) + 1e-8 for rows in (z_adv, z))
    return (q * (q.log() - p.log())).mean(-1)


def _scaled(rows: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    rows = rows - rows.amin(-1, keepdim=True)
    return rows / rows.amax(-1, keepdim=True)


def sinkhorn(
    p_logits: Float[Tensor, "N K"], q_logits: Float[Tensor, "M K"], blur: float = 0.01, iterations: int = 100
) -> Float[Tensor, ""]:
    """min_T Σ T_ij C_ij + blur · KL(T ‖ 1/NM),   C_ij = 1 − cos(softmax p_i, softmax q_j),   T of uniform marginals.

    The coupling is between two batches: row i may go to any row j, as in FeatureScatter (Zhang and Wang, NeurIPS 2019,
    arXiv:1907.10764) and the coreset papers' code. A distance of each pair of rows would need a cost between the
    dimensions of an embedding, which nobody defines. Sinkhorn's iterations run in logarithms; the gradient is that
    of the minimum, ∂/∂C = T (and not, as in their code, that of the iterations).
    """
    p, q = (normalize(logits.float().softmax(-1), dim=-1) for logits in (p_logits, q_logits))
    cost = 1 - p @ q.T
    with torch.no_grad():
        log_ratio = _coupling(cost / blur, iterations)  # of T to the product of its marginals
        plan = log_ratio.exp() / cost.numel()
    return (plan * cost).sum() + blur * (plan * log_ratio).sum()


def _coupling(cost: Float[Tensor, "N M"], iterations: int) -> Float[Tensor, "N M"]:
    """log(N M T) of the plan T of uniform marginals that minimises Σ T C + KL(T ‖ 1/NM)."""
    rows, columns = cost.shape
    g = cost.new_zeros(columns)
    for _ in range(iterations):
        f = log(columns) - (g - cost).logsumexp(1)
        g = log(rows) - (f[:, None] - cost).logsumexp(0)
    return f[:, None] + g - cost


Distance = Literal["kl", "js", "ot", "minmax"]
"""d(z̃, z), between adversarial and clean embeddings: kl is KL(softmax z̃ ‖ softmax z); minmax is `minmax_rows`, which
the released form of RCS takes."""

ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": kl_rows, "js": js_rows, "minmax": minmax_rows}
"""Distances of each row (N D), (N D) -> (N), where there is such a thing."""


def representational_divergence(
    z_adv: Float[Tensor, "N D"], z: Float[Tensor, "N D"], distance: Distance = "kl"
) -> Float[Tensor, ""]:
    """The mean distance of adversarial from clean embeddings; of ot, the cost of the batch's coupling."""
    return sinkhorn(z_adv, z) if distance == "ot" else ROWS[distance](z_adv, z).mean()
