"""A-InfoNCE: adversarial views as inferior positives (IP) and hard negatives (HN), on AdvCL or RoCL.

Yu et al., "Adversarial Contrastive Learning via Asymmetric InfoNCE", ECCV 2022, arXiv:2207.08374.

An adversarial view may look like another image, so a clean view should follow it less than it follows the clean one.
With l[u, v] the loss of anchor u and positive v, and sg(·) what passes no gradient, every pair of the adversarial
view a and a clean view c has in both its places, as in the authors' code,

    m[a, c] = α l[c, sg(a)] + (1 − α) l[a, sg(c)],

which pulls the clean view α times and the adversarial one 1 − α times.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unshaken.base.ranges import BelowOne, Count, NonNegative, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.losses.contrastive import hard_negative_pairs, mean_over_pairs, pairwise_info_nce
from unshaken.methods.advcl import AdvCL
from unshaken.methods.base import Method
from unshaken.methods.rocl import RoCL
from unshaken.nets.network import Network, evaluating


@dataclass(frozen=True)
@ranged
class IP:
    """Adversarial views as inferior positives."""

    alpha: Unit = 0.2
    """α, the clean side's part of the gradient: at 0 clean views do not follow adversarial ones, at 1/2 both equal."""
    adv_weight: NonNegative = 1.0
    """Of the pairs of an adversarial and a clean view."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is the clean side's part of the gradient, from 0 to 1, not {self.alpha}")


@dataclass(frozen=True)
@ranged
class Adaptive:
    """α rises as adversarial views come nearer to the clean image (AdvCL's tree alone).

    d is the mean distance of a batch's features f(x_cl) and f(x), through the clean route; d_avg its mean over the
    images of the first `epochs` epochs, in which α stays. Then α goes from its own value at d = d_avg to 1/2 at d_min.
    """

    epochs: Count = 30
    d_min: NonNegative = 0.4

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"d_avg is measured in 1 epoch or more, not {self.epochs}")


@dataclass(frozen=True)
@ranged
class HN:
    """Adversarial views as hard negatives: negatives near to the anchor weigh most (`hard_pairs`)."""

    tau_plus: BelowOne = 0.1
    """τ⁺, the chance that a negative is of the anchor's class."""
    beta: NonNegative = 1.0
    """How much more near negatives weigh: as exp(sim/τ) to this power."""

    def __post_init__(self) -> None:
        if not (0 <= self.tau_plus < 1 and self.beta >= 0):
            raise ValueError(
                f"hard negatives have a tau_plus in [0, 1) and a beta ≥ 0, not {self.tau_plus}, {self.beta}"
            )


@dataclass(frozen=True)
class AsymAdvCL(Method):
    """AdvCL with  l_CL = (1/12) (Σ_{c ≠ c′} l[c, c′] + 2 w Σ_c m[a, c]),   a = x_cl,   c, c′ ∈ {τ₁(x), τ₂(x), x_h}.

    Without ip it is the mean of l[u, v] over all u ≠ v, as in AdvCL. With hn every l is that of `hard_pairs`, its
    denominator that of its own anchor. Under advcl.form = "released" it is what the authors' code computes
    (yqy2001/A-InfoNCE, Asym-AdvCL at b28763e), on AdvCL's released form: hn in the form "advcl"; f of `Adaptive` in
    train mode, which updates the clean statistics twice more; α stays wherever d > d_avg, also where d < d_min; and
    where nothing is stopped, in the attack or without ip, w l[a, c] in the place of l[a, c] and w² l[a, c] in that of
    l[c, a], for the matrix is overwritten while read.
    """

    advcl: AdvCL = AdvCL()
    ip: IP | None = IP()
    hn: HN | None = HN()
    adaptive: Adaptive | None = None
    hard_attack: bool = False
    """Whether the attack raises the loss with hn; else, as in all published runs, the one without. It never has ip."""

    routes: ClassVar = AdvCL.routes
    views: ClassVar = AdvCL.views
    labels: ClassVar = AdvCL.labels
    memory: ClassVar = ("distances", "images")

    def __post_init__(self) -> None:
        if self.adaptive is not None and self.ip is None:
            raise ValueError("what is adaptive is the alpha of ip, and ip is None")

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        x_clean = self.advcl.clean(batch)
        x_adv = self.advcl.adversarial(h, batch, x_clean, self.attacked, key)
        z, ce = self.advcl.embed(h, x_adv, lambda: self.advcl.embed_clean(h, x_clean), batch.label)  # pyright: ignore[reportArgumentType]
        if self.ip is None:
            return self.advcl.total(self.contrast(z), ce)
        alpha = self.alpha(h, batch.views[2], x_adv[0], clock)
        return self.advcl.total(self.contrast(z, alpha), ce) | {"alpha": alpha}

    def contrast(self, z: Float[Tensor, "4 N D"], alpha: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """l_CL, where alpha is of ip alone."""
        if self.ip is None:
            return mean_over_pairs(self.unstopped(self.pairs(z)))
        return mean_over_pairs(inferior(self.pairs(z), self.pairs(z, z.detach()), 0, alpha, self.ip.adv_weight))  # pyright: ignore[reportArgumentType]

    def attacked(self, z: Float[Tensor, "4 N D"]) -> Float[Tensor, ""]:
        """What the attack raises in the place of l_CL."""
        return mean_over_pairs(
            self.unstopped(self.pairs(z) if self.hard_attack else pairwise_info_nce(z, self.advcl.tau))
        )

    def unstopped(self, l_uv: Float[Tensor, "4 4 N"]) -> Float[Tensor, "4 4 N"]:
        if self.advcl.form == "released":
            weight = self.ip.adv_weight if self.ip else 1
            l_uv = l_uv.clone()
            l_uv[0] = weight * l_uv[0]
            l_uv[:, 0] = weight * l_uv[0]
        return l_uv

    def pairs(self, z: Float[Tensor, "4 N D"], others: Tensor | None = None) -> Float[Tensor, "4 4 N"]:
        if self.hn is None:
            return pairwise_info_nce(z, self.advcl.tau, others)
        form: Literal["advcl", "hcl"] = "advcl" if self.advcl.form == "released" else "hcl"
        return hard_negative_pairs(z, self.advcl.tau, self.hn.tau_plus, self.hn.beta, others, form)

    def alpha(
        self, h: Network, x: Float[Tensor, "N C H W"], x_cl: Float[Tensor, "N C H W"], clock: Clock
    ) -> Float[Tensor, ""]:
        """α of this batch."""
        alpha = x.new_full((), self.ip.alpha)
        if self.adaptive is None:
            return alpha
        d, d_min = self.distance(h, x, x_cl), self.adaptive.d_min
        if clock.epoch < self.adaptive.epochs:
            h.memory.distances.add_(len(x) * d)  # pyright: ignore[reportCallIssue]
            h.memory.images.add_(len(x))  # pyright: ignore[reportCallIssue]
            return alpha
        d_avg = h.memory.distances / h.memory.images  # pyright: ignore[reportOperatorIssue]
        nearness = torch.where(d_avg > d_min, ((d_avg - d) / (d_avg - d_min)).clamp(0, 1), (d < d_min).float())
        if self.advcl.form == "released":  # their code tests d > d_avg first
            nearness = torch.where(d > d_avg, torch.zeros_like(nearness), nearness)
        return alpha + nearness * (0.5 - alpha)

    @torch.no_grad()
    def distance(self, h: Network, x: Float[Tensor, "N C H W"], x_cl: Float[Tensor, "N C H W"]) -> Float[Tensor, ""]:
        """d, the mean of ‖f(x) − f(x_cl)‖₂."""
        with nullcontext() if self.advcl.form == "released" else evaluating(h):
            return (h.features(x, "clean") - h.features(x_cl, "clean")).norm(dim=-1).mean()


@dataclass(frozen=True)
class AsymRoCL(Method):
    """RoCL with  (1/3) (l[t, t′] + l[t′, t] + 2 w Σ_c m[a, c])  for its first term,   a = t(x)ᵃᵈᵛ,   c ∈ {t(x), t′(x)}.

    A-InfoNCE is a loss of pairs: all views are anchors and each positive has a logarithm of its own, in either form of
    RoCL. Without ip it is the sum of l[u, v] over all u ≠ v, divided by 3. With hn every l is that of `hard_pairs`.
    Under rocl.form = "released" it is what the authors' code computes (yqy2001/A-InfoNCE, Asym-RoCL at b28763e), on
    RoCL's released form: all l with sg(·) on what the anchor is compared with, hn in the form "rocl", and w in the
    place of 2 w.
    """

    rocl: RoCL = RoCL()
    ip: IP | None = IP()
    hn: HN | None = HN(tau_plus=0.12)

    routes: ClassVar = RoCL.routes

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z, z_pair = self.rocl.embed(h, batch, key)
        return self.rocl.total(self.contrast(z), z_pair)

    def contrast(self, z: Float[Tensor, "3 N D"]) -> Float[Tensor, ""]:
        released = self.rocl.form == "released"
        l_uv = self.pairs(z, z.detach() if released else z)
        if self.ip is not None:
            weight = self.ip.adv_weight / 2 if released else self.ip.adv_weight
            l_uv = inferior(l_uv, self.pairs(z, z.detach()), 2, self.ip.alpha, weight)
        return 2 * mean_over_pairs(l_uv)  # each of 3N anchors has 2 positives

    def pairs(self, z: Float[Tensor, "3 N D"], others: Float[Tensor, "3 N D"]) -> Float[Tensor, "3 3 N"]:
        if self.hn is None:
            return pairwise_info_nce(z, self.rocl.tau, others)
        form = "rocl" if self.rocl.form == "released" else "hcl"
        return hard_negative_pairs(z, self.rocl.tau, self.hn.tau_plus, self.hn.beta, others, form)


def inferior(
    l_uv: Float[Tensor, "V V N"],
    stopped: Float[Tensor, "V V N"],
    a: int,
    alpha: float | Float[Tensor, ""],
    weight: float,
) -> Float[Tensor, "V V N"]:
    """The same with w m[a, c] in the places [a, c] and [c, a];  stopped[u, v] is l[u, sg(v)]."""
    l_uv = l_uv.clone()
    l_uv[a] = l_uv[:, a] = weight * (alpha * stopped[:, a] + (1 - alpha) * stopped[a])
    return l_uv
