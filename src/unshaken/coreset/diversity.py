"""Diversity of a greedy selection: gains minus the similarity with what is picked already."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.types import Float, Int


class Diversity:
    """Gains G(x | S) / σ_G − λ max_{s ∈ S} cos(f(x), f(s)), where σ_G is the standard deviation of the gains compared.

    Features and not gradients: all gradients with a large gain have a large inner product with the same r, so their
    cosine would penalise the gain itself. The features' mean over the candidates is subtracted first, since features
    after a ReLU all have cosines near 1. A pick costs N · D multiplications.

    largest  (N) for each candidate, the largest cosine with a picked one; −1 if none is picked yet, which changes no
             order
    """

    def __init__(self, features: Float[Tensor, "N D"], weight: float) -> None:
        self.f = normalize(features - features.mean(0), dim=-1)
        self.weight = weight
        self.largest = self.f.new_full((len(self.f),), -1.0)

    def pick(self, gains: Float[Tensor, "m"], items: Int[Tensor, "m"], count: int) -> list[int]:
        """Return the positions in `items` of `count` items, picked one after the other; each counts for the next.

        items  the candidates' numbers, in the order of the features; those with a gain of −∞ cannot be picked
        """
        left = gains[gains.isfinite()]
        gains = gains / left.std(correction=0).clamp_min(torch.finfo(gains.dtype).tiny)
        picked = []
        for _ in range(min(count, len(left))):
            best = int((gains - self.weight * self.largest[items].cpu()).argmax())
            gains[best] = -torch.inf
            self.largest = torch.maximum(self.largest, self.f @ self.f[items[best]])
            picked.append(best)
        return picked
