"""AIR: adversarial invariant regularisation, on ACL or DynACL.

Xu et al., "Enhancing Adversarial Contrastive Learning via Adversarial Invariant Regularization",
NeurIPS 2023, arXiv:2305.00374.

An image predicts its adversarial view with probability p_u(y|x̃), and the adversarial view predicts its clean view with
p_u(x̃|x). Each is a softmax over the batch, so there is one number for each image. The products of both views should
agree:

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
from unshaken.methods.released import air as released
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class AIR(Method):
    """min_θ L_ACL(U) + λ₁ L_AIR(U; 0) + λ₂ L_AIR(U; ε).

    L_AIR(U; 0) is the standard invariance (SIR). The ACL terms are means over anchors, while the KL is a sum over the
    batch: the paper's λ₁ = λ₂ = 0.5 were used at this scale.
    """

    acl: ACL = ACL()
    lambda1: NonNegative = 0.5
    """λ₁, the weight of the standard term."""
    lambda2: NonNegative = 0.5
    """λ₂, the weight of the adversarial term."""
    divergence: Literal["kl", "normalized", "released"] = "kl"
    """kl: the equation of the paper. normalized: each product is first scaled to sum to 1 over the batch. (Products of
    two softmaxes sum to about 1/N, so the gradient of kl is some hundred times weaker.) released: what the authors'
    code computes for the published numbers (methods/released/air.py)."""

    routes: ClassVar = ACL.routes

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z_adv, z = self.acl.embed(h, batch, key)
        terms = self.acl.contrast(z_adv, z, clock)
        original = h(batch.image, "clean")
        sir, air = self.standard(original, z), self.adversarial(original, z_adv, z)
        total = terms["loss"] + self.lambda1 * sir + self.lambda2 * air
        return terms | {"loss": total, "sir": sir, "air": air}

    def standard(self, original: Float[Tensor, "N D"], z: Float[Tensor, "2 N D"]) -> Float[Tensor, ""]:
        """Return L_AIR(B; 0): then x̃ = xᵘ, p(x̃|x) is 1/N, and it is KL(p_i(y|x) ‖ p_j(y|x)) / N."""
        standard, _ = FORMS[self.divergence]
        return standard(log_conditional(z, original, self.acl.tau), log_conditional(z, z, self.acl.tau))

    def adversarial(
        self, original: Float[Tensor, "N D"], z_adv: Float[Tensor, "2 N D"], z: Float[Tensor, "2 N D"]
    ) -> Float[Tensor, ""]:
        """Return L_AIR(B; ε)."""
        _, adversarial = FORMS[self.divergence]
        return adversarial(log_conditional(z_adv, original, self.acl.tau), log_conditional(z_adv, z, self.acl.tau))


def log_conditional(a: Float[Tensor, "2 N D"], b: Float[Tensor, "... N D"], tau: float) -> Float[Tensor, "2 N"]:
    """Return log exp(sim(a_k, b_k)/τ) / Σ_m exp(sim(a_m, b_m)/τ): a softmax over the batch."""
    return (cosine_similarity(a, b, dim=-1) / tau).log_softmax(-1)


def invariance(log_y: Float[Tensor, "2 N"], log_x: Float[Tensor, "2 N"]) -> Float[Tensor, ""]:
    """Return L_AIR from log p_u(y|x̃) and log p_u(x̃|x), the rows being the views i and j."""
    return kl(*log_y + log_x)


def normalized(log_y: Float[Tensor, "2 N"], log_x: Float[Tensor, "2 N"]) -> Float[Tensor, ""]:
    """Return the same with each product scaled to sum to 1 over the batch."""
    return kl(*(log_y + log_x).log_softmax(-1))


FORMS = {
    "kl": (invariance, invariance),
    "normalized": (normalized, normalized),
    "released": (released.standard, released.adversarial),
}
"""By name: the standard and the adversarial term, from log p_u(y|x̃) and log p_u(x̃|x)."""
