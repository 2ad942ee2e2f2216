"""How far embeddings move when images change, in units of what search and hashing notice"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from unshaken.base.types import Bool, Float, Int
from unshaken.evaluation.verdicts import wilson

NEIGHBOURS = 10
"""Nearest images that are compared before and after a change."""
BITS = 96
"""Bits of the hash: signs of the projections onto as many principal components of the gallery."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Embeddings of the user's own images, among which a changed image is searched.

    z     one embedding for each image; for the cosine metric they have length 1
    mean  their mean
    axes  their principal components, at most BITS
    """

    z: Float[Tensor, "G D"]
    mean: Float[Tensor, "D"]
    axes: Float[Tensor, "D B"]

    @classmethod
    def of(cls, z: Float[Tensor, "G D"], metric: str = "cosine") -> Gallery:
        if len(z) < NEIGHBOURS + 2:
            raise ValueError(f"a check-up needs {NEIGHBOURS + 2} images or more, and these are {len(z)}")
        z = in_metric(z, metric)
        mean = z.mean(0)
        axes = torch.linalg.svd(z - mean, full_matrices=False).Vh[:BITS].T
        return cls(z, mean, axes)

    def bits(self, z: Float[Tensor, "N D"]) -> Bool[Tensor, "N B"]:
        """Return the hash of each embedding: the signs of (z − mean) · axes."""
        return (z - self.mean) @ self.axes >= 0


def in_metric(z: Float[Tensor, "N D"], metric: str) -> Float[Tensor, "N D"]:
    """Return embeddings in float64 whose Euclidean distance orders pairs as the metric does."""
    return normalize(z.double(), dim=1) if metric == "cosine" else z.double()


@dataclass(frozen=True, eq=False)
class Drift:
    """The drift that a change caused in the embeddings of some images of a gallery; a row for each.

    cosine    1 − cos(f(x′), f(x))
    relative  ‖f(x′) − f(x)‖ / ‖f(x) − f(n(x))‖, where n(x) is the nearest other image. Below ½, x is still the image
              that is nearest to x′
    lost      another image of the gallery is nearer to x′ than x is
    flipped   the nearest other image of x′ is not n(x)
    kept      the share of the ten nearest other images of x that are among those of x′
    bits      the share of the hash's bits that change
    """

    cosine: Float[Tensor, "N"]
    relative: Float[Tensor, "N"]
    lost: Bool[Tensor, "N"]
    flipped: Bool[Tensor, "N"]
    kept: Float[Tensor, "N"]
    bits: Float[Tensor, "N"]

    @classmethod
    def of(cls, gallery: Gallery, index: Int[Tensor, "N"], moved: Float[Tensor, "N D"]) -> Drift:
        """Compare the embeddings of changed images, in the gallery's metric, with those of the images themselves.

        index  the place of each image in the gallery
        """
        own, rows = gallery.z[index], torch.arange(len(index))
        before, after = _distances(own, gallery.z), _distances(moved, gallery.z)
        away = after[rows, index].clone()
        before[rows, index] = after[rows, index] = inf
        near, now = before.amin(1), after.amin(1)
        relative = torch.where(away > 0, away / near, 0.0)  # ∞ beside a copy, at distance 0
        nearest = [each.topk(NEIGHBOURS, largest=False).indices for each in (before, after)]
        shared = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(2)
        changed = gallery.bits(own) != gallery.bits(moved)
        return cls(
            cosine=1 - cosine_similarity(moved, own, dim=1),
            relative=relative,
            lost=now < away,
            flipped=before.argmin(1) != after.argmin(1),
            kept=shared.double().mean(1),
            bits=changed.double().mean(1),
        )

    def summary(self) -> dict[str, Any]:
        """Return the numbers of a report: counts with intervals; the median, the 95th percentile and the worst."""
        n = len(self.lost)
        found: dict[str, Any] = {"n": n}
        for name in ("lost", "flipped"):
            count = int(getattr(self, name).sum())
            low, high = wilson(count, n)
            found[name] = {"count": count, "percent": 100 * count / n, "low": 100 * low, "high": 100 * high}
        for name, worst in (("cosine", 1.0), ("relative", 1.0), ("bits", 1.0), ("kept", 0.0)):
            values = getattr(self, name).clamp_max(1e9).sort(descending=not worst).values
            at = [round(share * (n - 1)) for share in (0.5, 0.95, 1.0)]
            found[name] = dict(zip(("median", "p95", "worst"), values[at].tolist(), strict=True))
        found["kept"]["mean"] = float(self.kept.mean())
        return found


def _distances(a: Float[Tensor, "N D"], b: Float[Tensor, "G D"]) -> Float[Tensor, "N G"]:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
