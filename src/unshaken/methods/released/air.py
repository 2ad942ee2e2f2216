"""AIR as released: Σ q (log q − p), in place of the paper's Σ p (log p − log q).

GodXuxilie/Enhancing_ACL_via_AIR, AIR.py:80-98 at 15cf0a7. The code gives PyTorch's `kl_div` the probability p where its
logarithm belongs, and the arguments in reversed order. The published numbers of ACL-AIR rest on it.
"""

from __future__ import annotations

from torch import Tensor

from unshaken.base.types import Float


def standard(log_y: Float[Tensor, "2 N"], log_x: Float[Tensor, "2 N"]) -> Float[Tensor, ""]:
    """Return the standard term (SIR), in which the code leaves out p(x|x)."""
    return divergence(*log_y)


def adversarial(log_y: Float[Tensor, "2 N"], log_x: Float[Tensor, "2 N"]) -> Float[Tensor, ""]:
    """Return the adversarial term (AIR), from log p_u(y|x̃) and log p_u(x̃|x)."""
    return divergence(*log_y + log_x)


def divergence(log_p: Float[Tensor, "N"], log_q: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Return Σ_k q_k (log q_k − p_k). It is negative, and its gradient nearly ignores p, which is view i."""
    return (log_q.exp() * (log_q - log_p.exp())).sum()
