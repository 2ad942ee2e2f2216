"""NT-Xent as it is usually written: whole matrices of all pairs, and the gradient by autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def nt_xent(z: Tensor, tau: float) -> Tensor:
    """Of (2 n D): exponentials, a mask, a quotient, a logarithm."""
    z = nn.functional.normalize(z.flatten(0, 1), dim=-1)
    n = len(z) // 2
    e = (z @ z.T / tau).exp() * (1 - torch.eye(2 * n))
    partner = torch.cat([e.diagonal(n), e.diagonal(-n)])
    return -(partner / e.sum(1)).log().mean()


def nt_xent_as_classification(z: Tensor, tau: float) -> Tensor:
    """The same as a cross-entropy: each anchor's class is its partner."""
    z = nn.functional.normalize(z.flatten(0, 1), dim=-1)
    logits = (z @ z.T / tau).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))
