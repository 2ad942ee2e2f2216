"""NT-Xent: two views of an image attract, all other images repel."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from unshaken.base.types import Float


def nt_xent(z: Float[Tensor, "2 N D"], tau: float) -> Float[Tensor, ""]:
    """The mean over the 2N anchors of  −log exp(sim(z_kᵘ, z_kᵛ)/τ) / Σ_{z' ≠ z_kᵘ} exp(sim(z_kᵘ, z')/τ).

    sim is the cosine; the sum runs over the other 2N − 1 embeddings, the partner among them
    (Chen et al., ICML 2020, arXiv:2002.05709, eq. 1). With N = 1 there is nothing to contrast and the loss is 0.
    """
    if z.ndim != 3 or len(z) != 2:
        raise ValueError(f"NT-Xent contrasts two views, shape (2, N, D), not {tuple(z.shape)}")
    flat = normalize(z.float().flatten(0, 1), dim=-1)
    similarity = flat @ flat.T / tau
    itself = torch.eye(len(flat), dtype=torch.bool, device=z.device)
    partner = torch.arange(len(flat), device=z.device).roll(z.shape[1])
    return cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def check_temperature(tau: float) -> None:
    """ValueError unless τ is positive: at 0 the loss is not defined, and below it partners would repel."""
    if not (tau > 0 and isfinite(tau)):
        raise ValueError(f"a temperature τ is a positive number, such as 0.5, not {tau}")
