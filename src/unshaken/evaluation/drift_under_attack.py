"""Drift of embeddings under attack or by training, measured without labels"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unshaken.attacks.pgd import PGD, embedding_attack
from unshaken.base.rng import Key
from unshaken.base.types import Float
from unshaken.data.images import Images
from unshaken.evaluation.embedding_drift import Drift, Gallery, in_metric
from unshaken.evaluation.linear_probe import CHUNK, features_of
from unshaken.evaluation.verdicts import wilson
from unshaken.nets.network import Network, device_of, frozen

METRIC = "l2"
"""Distances are those of embeddings as they are, not normalised."""


@dataclass(frozen=True)
class EmbeddingDrift:
    """The embeddings of attacked images, against a gallery of clean ones.

    n         attacked images
    gallery   clean images, theirs among them
    lost      attacked images whose nearest clean image is not their own
    relative  median of ‖f(x̃) − f(x)‖ / ‖f(x) − f(nearest other image)‖; below ½ x is certainly the nearest to x̃
    """

    n: int
    gallery: int
    lost: int
    relative: float

    def to_json(self) -> dict[str, Any]:
        low, high = wilson(self.lost, self.n)
        return {
            "n": self.n,
            "gallery": self.gallery,
            "identity_lost": self.lost,
            "interval95": [round(100 * low, 2), round(100 * high, 2)],
            "relative_drift_median": round(self.relative, 4),
        }


def drift_under_attack(net: Network, images: Images, attack: PGD, n: int, key: Key) -> EmbeddingDrift:
    """Attack the embeddings of the first n images by ‖f(x̃) − f(x)‖², with all images as the gallery.

    net  of `embedder`
    """
    gallery, n = features_of(net, images), min(n, len(images))
    device, found = device_of(net), []
    with frozen(net):
        for number, at in enumerate(range(0, n, CHUNK)):
            rows = slice(at, min(at + CHUNK, n))
            x, z = images.floats(rows).to(device), gallery[rows].to(device)
            rng = (key / number).on(device)
            x_adv = embedding_attack(attack, lambda x: net(x, "shared"), _squared, x, z, rng)
            with torch.no_grad():
                found.append(net(x_adv, "shared"))
    return against_gallery(torch.cat(found), gallery)


def against_gallery(z_adv: Float[Tensor, "n D"], gallery: Float[Tensor, "N D"]) -> EmbeddingDrift:
    """Compare embeddings of changed images with a gallery whose first rows are those of the unchanged ones."""
    found = Drift.of(Gallery.of(gallery.cpu(), METRIC), torch.arange(len(z_adv)), in_metric(z_adv.cpu(), METRIC))
    return EmbeddingDrift(len(z_adv), len(gallery), int(found.lost.sum()), float(found.relative.median()))


def _squared(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
    return (a - b).square().sum(-1)


def fidelity(before: Float[Tensor, "N D"], after: Float[Tensor, "N D"]) -> dict[str, float]:
    """Return how far clean images moved in training: E ‖φ(x) − φ₀(x)‖² / ‖φ₀(x)‖², the mean cosine, and mixed search.

    mixed search  the share of images whose nearest old embedding, to their new one, is their own
    """
    drift = _squared(after, before) / before.square().sum(-1)
    own = torch.arange(len(before), device=before.device)
    return {
        "clean_drift": round(float(drift.mean()), 4),
        "cosine": round(float(torch.cosine_similarity(after, before, dim=-1).mean()), 4),
        "found_in_old_index": round(float((torch.cdist(after, before).argmin(1) == own).float().mean()), 4),
    }
