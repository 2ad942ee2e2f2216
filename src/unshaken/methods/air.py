"""AIR: adversarial invariant regularisation, on ACL or DynACL.

Xu et al., "Enhancing Adversarial Contrastive Learning via Adversarial Invariant Regularization",
NeurIPS 2023, arXiv:2305.00374.

An image predicts its adversarial view with p_u(y|x̃), the adversarial view its clean view with
p_u(x̃|x), each a softmax over the batch, one number an image; both views' products should agree:

    L_AIR(B; ε) = KL( p_i(y|x̃) p_i(x̃|x) ‖ p_j(y|x̃) p_j(x̃|x) ; B ),   KL(p ‖ q; B) = Σ_{x ∈ B} p log(p/q).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cosine_similarity

from unshaken.base.ranges import NonNegative, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.losses.divergence import kl
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class AIR(Method):
    """min_θ L_ACL(U) + λ₁ L_AIR(U; 0) + λ₂ L_AIR(U; ε).

    With ε = 0 (the standard invariance, SIR) x̃ = xᵘ, p(x̃|x) is uniform and L_AIR(B; 0) = KL(p_i(y|x) ‖ p_j(y|x))/N.
    The ACL terms are means over anchors and the KL a sum over the batch, the scale at which the
    paper's λ₁ = λ₂ = 0.5 were used.
    """

    acl: ACL = ACL()
    lambda1: NonNegative = 0.5
    lambda2: NonNegative = 0.5
    divergence: Literal["kl", "normalized", "released"] = "kl"
    """kl: the equation above. normalized: the same with each product scaled to sum to 1 over the batch (products of two
    softmaxes sum to about 1/N, so the equation's gradient is some hundred times weaker). released: what the authors'
    code computes (GodXuxilie/Enhancing_ACL_via_AIR, AIR.py:80-98 at 15cf0a7), for its published numbers rest on it:
    Σ q (log q − p), with p where log p belongs and the arguments reversed; negative, and nearly blind to view i."""

    routes: ClassVar = ACL.routes

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z_adv, z = self.acl.embed(h, batch, key)
        terms = self.acl.contrast(z_adv, z, clock)
        original = h(batch.image, "clean")
        sir, air = self.standard(original, z), self.adversarial(original, z_adv, z)
        total = terms["loss"] + self.lambda1 * sir + self.lambda2 * air
        return terms | {"loss": total, "sir": sir, "air": air}

    def standard(self, original: Float[Tensor, "N D"], z: Float[Tensor, "2 N D"]) -> Float[Tensor, ""]:
        """L_AIR(B; 0)."""
        if self.divergence == "released":
            return released(*log_conditional(z, original, self.acl.tau))
        return self.adversarial(original, z, z)

    def adversarial(
        self, original: Float[Tensor, "N D"], z_adv: Float[Tensor, "2 N D"], z: Float[Tensor, "2 N D"]
    ) -> Float[Tensor, ""]:
        """L_AIR(B; ε)."""
        log_joint = log_conditional(z_adv, original, self.acl.tau) + log_conditional(z_adv, z, self.acl.tau)
        if self.divergence == "released":
            return released(*log_joint)
        if self.divergence == "normalized":
            log_joint = log_joint.log_softmax(-1)
        return kl(*log_joint)


def log_conditional(a: Float[Tensor, "2 N D"], b: Float[Tensor, "... N D"], tau: float) -> Float[Tensor, "2 N"]:
    """log exp(sim(a_k, b_k)/τ) / Σ_m exp(sim(a_m, b_m)/τ): of each image's own pair, across the batch."""
    return (cosine_similarity(a, b, dim=-1) / tau).log_softmax(-1)


def released(log_p: Float[Tensor, "N"], log_q: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Σ_k q_k (log q_k − p_k), where log p_k belongs."""
    return (log_q.exp() * (log_q - log_p.exp())).sum()
