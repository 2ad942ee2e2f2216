"""KL divergence between distributions over a batch and between rows of logits."""

from __future__ import annotations

from torch import Tensor

from unshaken.base.types import Float


def kl(log_p: Float[Tensor, "N"], log_q: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """KL(p ‖ q) = Σ_k p_k (log p_k − log q_k), both given as logarithms; neither has to sum to 1."""
    return (log_p.exp() * (log_p - log_q)).sum()


def kl_rows(p_logits: Float[Tensor, "N K"], q_logits: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """KL(softmax p ‖ softmax q) of each row."""
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)
