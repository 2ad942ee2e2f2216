"""A-InfoNCE: adversarial views as inferior positives and hard negatives, on AdvCL or RoCL.

Yu et al., "Adversarial Contrastive Learning via Asymmetric InfoNCE", ECCV 2022, arXiv:2207.08374.

An adversarial view may look like another image, so clean views should follow it less than it follows them. Let l[u, v]
be the loss of anchor u and positive v, and let sg(·) stop the gradient. For the adversarial view a and a clean view c,
both l[a, c] and l[c, a] are replaced, as in the authors' code, by

    m[a, c] = α l[c, sg(a)] + (1 − α) l[a, sg(c)],

which pulls the clean view with weight α and the adversarial view with weight 1 − α.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unshaken.base.ranges import BelowOne, Count, NonNegative, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.losses.contrastive import mean_over_pairs, pairwise_hard_negative, pairwise_info_nce
from unshaken.methods.advcl import AdvCL
from unshaken.methods.base import Method
from unshaken.methods.released import ainfonce as released
from unshaken.methods.rocl import RoCL
from unshaken.nets.network import Network, evaluating


@dataclass(frozen=True)
@ranged
class IP:
    """Adversarial views as inferior positives."""

    alpha: Unit = 0.2
    """α, the share of the gradient that clean views get. 0: clean views are not pulled towards adversarial ones; 1/2:
    both are pulled equally."""
    adv_weight: NonNegative = 1.0
    """w, the weight of the pairs of an adversarial and a clean view."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share of the gradient, from 0 to 1, not {self.alpha}")


@dataclass(frozen=True)
@ranged
class Adaptive:
    """α rises as adversarial views come nearer to the clean image (for AdvCL only).

    d is the mean distance between the features f(x_cl) and f(x) of a batch, through the clean route. d_avg is the mean
    of d over the images of the first `epochs` epochs, during which α is constant. Afterwards α rises linearly from its
    constant value at d = d_avg to 1/2 at d = d_min.
    """

    epochs: Count = 30
    """Number of epochs in which d_avg is measured."""
    d_min: NonNegative = 0.4
    """The distance of features at which α is 1/2."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"d_avg is measured in 1 epoch or more, not {self.epochs}")


@dataclass(frozen=True)
@ranged
class HN:
    """Hard negatives: those nearest to the anchor weigh most (`pairwise_hard_negative`)."""

    tau_plus: BelowOne = 0.1
    """τ⁺, the chance that a negative has the anchor's class."""
    beta: NonNegative = 1.0
    """β: negatives are weighted by exp(sim/τ) to this power."""

    def __post_init__(self) -> None:
        if not (0 <= self.tau_plus < 1 and self.beta >= 0):
            raise ValueError(
                f"hard negatives have a tau_plus in [0, 1) and a beta ≥ 0, not {self.tau_plus}, {self.beta}"
            )


@dataclass(frozen=True)
class AsymAdvCL(Method):
    """AdvCL with  l_CL = (1/12) (Σ_{c ≠ c′} l[c, c′] + 2 w Σ_c m[a, c]),   a = x_cl,   c, c′ ∈ {τ₁(x), τ₂(x), x_h}.

    Without ip it is the mean of l[u, v] over all u ≠ v, as in AdvCL. With hn every l is `pairwise_hard_negative`.
    With advcl.form = "released" it is what the authors' code computes, on AdvCL's released form
    (methods/released/ainfonce.py).
    """

    advcl: AdvCL = AdvCL()
    """The method whose contrast is replaced."""
    ip: IP | None = IP()
    """Inferior positives; None: adversarial views are positives like others."""
    hn: HN | None = HN()
    """Hard negatives; None: all negatives have the same weight."""
    adaptive: Adaptive | None = None
    """How α changes during training; None: it is constant."""
    hard_attack: bool = False
    """The attack raises the loss with hn. Otherwise it raises the loss without hn, as in all published runs. The attack
    never uses ip."""

    routes: ClassVar = AdvCL.routes
    views: ClassVar = AdvCL.views
    labels: ClassVar = AdvCL.labels
    memory: ClassVar = ("distances", "images")

    def __post_init__(self) -> None:
        if self.adaptive is not None and self.ip is None:
            raise ValueError("adaptive changes the alpha of ip, but ip is None; set ip, or leave adaptive out")

    @property
    def form(self) -> AdvCLForm:
        """The paper's steps or the released ones, as in `advcl`."""
        return ADVCL_FORMS[self.advcl.form]

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        x_clean = self.advcl.clean(batch)
        x_adv = self.advcl.adversarial(h, batch, x_clean, self.attack_contrast, key)
        z, ce = self.advcl.embed(h, x_adv, lambda: self.advcl.embed_clean(h, x_clean), batch.label)  # pyright: ignore[reportArgumentType]
        if self.ip is None:
            return self.advcl.total(self.contrast(z), ce)
        alpha = self.alpha(h, batch.views[2], x_adv[0], clock)
        return self.advcl.total(self.contrast(z, alpha), ce) | {"alpha": alpha}

    def contrast(self, z: Float[Tensor, "4 N D"], alpha: Float[Tensor, ""] | None = None) -> Float[Tensor, ""]:
        """Return l_CL; alpha is needed only with ip."""
        l_uv = self.pairs(z)
        if self.ip is None:
            return mean_over_pairs(self.form.without_ip(l_uv, 1))
        return mean_over_pairs(with_ip(l_uv, self.pairs(z, z.detach()), 0, alpha, self.ip.adv_weight))  # pyright: ignore[reportArgumentType]

    def attack_contrast(self, z: Float[Tensor, "4 N D"]) -> Float[Tensor, ""]:
        """Return the mean of l[u, v] over u ≠ v, which the attack raises instead of l_CL."""
        l_uv = self.pairs(z) if self.hard_attack else pairwise_info_nce(z, self.advcl.tau)
        return mean_over_pairs(self.form.without_ip(l_uv, self.ip.adv_weight if self.ip else 1))

    def pairs(self, z: Float[Tensor, "4 N D"], others: Float[Tensor, "4 N D"] | None = None) -> Float[Tensor, "4 4 N"]:
        """Return l[u, v], with anchors from z and positives and negatives from `others`, or from z if it is None."""
        if self.hn is None:
            return pairwise_info_nce(z, self.advcl.tau, others)
        return self.form.hard_pairs(z, self.advcl.tau, self.hn.tau_plus, self.hn.beta, others)

    def alpha(
        self, h: Network, x: Float[Tensor, "N C H W"], x_cl: Float[Tensor, "N C H W"], clock: Clock
    ) -> Float[Tensor, ""]:
        """Return α for this batch, and add its distance to `h.memory` while d_avg is measured."""
        alpha = x.new_full((), self.ip.alpha)
        if self.adaptive is None:
            return alpha
        of_images, d_min = self.distances(h, x, x_cl), self.adaptive.d_min
        d = of_images.mean()
        if clock.epoch < self.adaptive.epochs:
            h.memory.distances.add_(len(of_images) * d)  # pyright: ignore[reportCallIssue]
            h.memory.images.add_(len(of_images))  # pyright: ignore[reportCallIssue]
            return alpha
        d_avg = h.memory.distances / h.memory.images  # pyright: ignore[reportOperatorIssue]
        nearness = torch.where(d_avg > d_min, ((d_avg - d) / (d_avg - d_min)).clamp(0, 1), (d < d_min).float())
        return alpha + self.form.nearness(nearness, d, d_avg) * (0.5 - alpha)

    @torch.no_grad()
    def distances(self, h: Network, x: Float[Tensor, "N C H W"], x_cl: Float[Tensor, "N C H W"]) -> Float[Tensor, "N"]:
        """Return ‖f(x) − f(x_cl)‖₂ of each image of the batch; d is their mean."""
        with self.form.feature_mode(h):
            return (h.features(x, "clean") - h.features(x_cl, "clean")).norm(dim=-1)


@dataclass(frozen=True)
class AsymRoCL(Method):
    """RoCL with  (1/3) (l[t, t′] + l[t′, t] + 2 w Σ_c m[a, c])  for its first term,   a = t(x)ᵃᵈᵛ,   c ∈ {t(x), t′(x)}.

    A-InfoNCE is a loss of pairs: all views are anchors and each positive has a logarithm of its own, in either form of
    RoCL. Without ip it is the sum of l[u, v] over all u ≠ v, divided by 3. With hn every l is that of
    `pairwise_hard_negative`. With rocl.form = "released" it is what the authors' code computes, on RoCL's released form
    (methods/released/ainfonce.py): every l compares its anchor with sg(·), and w stands where the paper has 2 w.
    """

    rocl: RoCL = RoCL()
    """The method whose first term is replaced."""
    ip: IP | None = IP()
    """Inferior positives; None: adversarial views are positives like others."""
    hn: HN | None = HN(tau_plus=0.12)
    """Hard negatives; None: all negatives have the same weight."""

    routes: ClassVar = RoCL.routes

    @property
    def form(self) -> RoCLForm:
        """The paper's steps or the released ones, as in `rocl`."""
        return ROCL_FORMS[self.rocl.form]

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z, z_pair = self.rocl.embed(h, batch, key)
        return self.rocl.total(self.contrast(z), z_pair)

    def contrast(self, z: Float[Tensor, "3 N D"]) -> Float[Tensor, ""]:
        """Return the first term of the loss; view 2 is the adversarial one."""
        l_uv = self.pairs(z, self.form.others(z))
        if self.ip is not None:
            weight = self.form.ip_scale * self.ip.adv_weight
            l_uv = with_ip(l_uv, self.pairs(z, z.detach()), 2, self.ip.alpha, weight)
        return 2 * mean_over_pairs(l_uv)  # each of 3N anchors has 2 positives

    def pairs(self, z: Float[Tensor, "3 N D"], others: Float[Tensor, "3 N D"]) -> Float[Tensor, "3 3 N"]:
        """Return l[u, v], with anchors from z and positives and negatives from `others`."""
        if self.hn is None:
            return pairwise_info_nce(z, self.rocl.tau, others)
        return self.form.hard_pairs(z, self.rocl.tau, self.hn.tau_plus, self.hn.beta, others)


def with_ip(
    l_uv: Float[Tensor, "V V N"],
    stopped: Float[Tensor, "V V N"],
    a: int,
    alpha: float | Float[Tensor, ""],
    weight: float,
) -> Float[Tensor, "V V N"]:
    """Return l with w m[a, c] at [a, c] and at [c, a]; stopped[u, v] is l[u, sg(v)]. l itself stays as it is."""
    l_uv = l_uv.clone()
    l_uv[a] = l_uv[:, a] = weight * (alpha * stopped[:, a] + (1 - alpha) * stopped[a])
    return l_uv


class AdvCLForm(NamedTuple):
    """The steps of AsymAdvCL in which the paper and the released code differ."""

    hard_pairs: Callable[..., Tensor]
    without_ip: Callable[[Tensor, float], Tensor]
    nearness: Callable[[Tensor, Tensor, Tensor], Tensor]
    feature_mode: Callable[[Network], AbstractContextManager[None]]


class RoCLForm(NamedTuple):
    """The steps of AsymRoCL in which the paper and the released code differ."""

    hard_pairs: Callable[..., Tensor]
    others: Callable[[Tensor], Tensor]
    ip_scale: float


ADVCL_FORMS = {
    "paper": AdvCLForm(pairwise_hard_negative, lambda l_uv, _: l_uv, lambda nearness, *_: nearness, evaluating),
    "released": AdvCLForm(released.advcl_hard_pairs, released.overwrite, released.nearness, released.feature_mode),
}
ROCL_FORMS = {
    "paper": RoCLForm(pairwise_hard_negative, lambda z: z, 1.0),
    "released": RoCLForm(released.rocl_hard_pairs, Tensor.detach, released.ROCL_IP_SCALE),
}
