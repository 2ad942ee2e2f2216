"""FARE: an encoder whose embedding of an attacked image stays where the original one puts the clean image.

Schlarmann, Singh, Croce, Hein, "Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large
Vision-Language Models", ICML 2024, arXiv:2402.12336. The original φ₀ is any pre-trained encoder, and φ starts from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.methods.base import Method, run_attack
from unshaken.nets.network import Network, evaluating


@dataclass(frozen=True)
@ranged
class FARE(Method):
    """min_φ E max_{x̃ ∈ B_ε[x]} ‖φ(x̃) − φ₀(x)‖²; a sum over the embedding, a mean over the batch.

    The embedding is the one that users take, not normalised. In the first step φ = φ₀, so that the loss has no gradient
    at x itself: the attack needs its random start.

    Relative to E ‖φ₀(x)‖², `robust` in the log is the loss, `drift` that of clean images, and `constant` what the best
    constant answer would have. An encoder that is not robust yet may be worse than that under attack; it has collapsed
    only if clean images are.
    """

    attack: PGD = PGD(Linf(4 / 255), steps=10)

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    teacher: ClassVar = "frozen"
    score: ClassVar = "drift"

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        with torch.no_grad():
            target = h.teacher(x, "clean")
        x_adv = run_attack(self.attack, h, lambda x: squared_distance(h(x, "shared"), target), x, key)
        with torch.no_grad(), evaluating(h):  # clean images leave no trace in the batch norms
            drift = squared_distance(h(x, "shared"), target).mean()
        loss = squared_distance(h(x_adv, "shared"), target).mean()
        unit = squared_norm(target)
        return {"loss": loss, "robust": loss.detach() / unit, "drift": drift / unit, "constant": spread(target) / unit}


def squared_distance(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    """Return ‖a − b‖² of the two embeddings of each image."""
    return (a - b).square().sum(-1)


def squared_norm(z: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Return the mean of ‖z‖²."""
    return z.square().sum(-1).mean()


def spread(z: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    """Return the mean of ‖z − z̄‖², with z̄ the mean of the batch: the squared distance of the best constant answer."""
    return (z - z.mean(0)).square().sum(-1).mean()
