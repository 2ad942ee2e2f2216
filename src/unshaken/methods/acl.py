"""ACL: adversarial contrastive learning, the base of DynACL and of ACL-AIR.

Jiang et al., "Robust Pre-Training by Adversarial Contrastive Learning", NeurIPS 2020, arXiv:2010.13337 (its
dual-stream form). With two schedules it is the base of DynACL (Luo et al., "Rethinking the Effect of Data Augmentation
in Adversarial Contrastive Learning", ICLR 2023, arXiv:2303.01289): the strength of the augmentation falls in steps (the
recipe's `strength`) while ω rises (the field below).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Positive, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Clock, Constant
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.losses.contrastive import check_temperature, nt_xent
from unshaken.methods.base import Method, run_attack
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class ACL(Method):
    """min_θ (1 + ω) l_CL(x̃ⁱ, x̃ʲ) + (1 − ω) l_CL(xⁱ, xʲ),   (x̃ⁱ, x̃ʲ) = argmax over B_ε[xⁱ] × B_ε[xʲ] of l_CL(x̃ⁱ, x̃ʲ).

    Adversarial views go through the route "adv", clean views through "clean". The attack runs in eval mode.
    The released ACL halves the sum. Under LARS this only doubles the effect of the weight decay of 1e-6.
    """

    attack: PGD = PGD(Linf(8 / 255), steps=5)
    tau: Positive = 0.5
    """τ, the temperature of l_CL."""
    omega: AnySchedule = Constant(0.0)
    """ω: the adversarial term has the weight 1 + ω, the clean term 1 − ω."""

    routes: ClassVar = ("clean", "adv")

    def __post_init__(self) -> None:
        check_temperature(self.tau)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z_adv, z = self.embed(h, batch, key)
        return self.contrast(z_adv, z, clock)

    def embed(self, h: Network, batch: Batch, key: Key) -> tuple[Float[Tensor, "2 N D"], Float[Tensor, "2 N D"]]:
        """Return the embeddings of the adversarial views, and those of the clean views."""
        x_adv = self.adversarial(h, batch.views, key)
        return h(x_adv, "adv"), h(batch.views, "clean")

    def adversarial(self, h: Network, views: Float[Tensor, "2 N C H W"], key: Key) -> Float[Tensor, "2 N C H W"]:
        """Attack both views of every image at the same time, by one loss over the batch."""
        return run_attack(self.attack, h, lambda x: nt_xent(h(x, "adv"), self.tau), views, key)

    def contrast(self, z_adv: Float[Tensor, "2 N D"], z: Float[Tensor, "2 N D"], clock: Clock) -> LossTerms:
        """Return the objective and its two terms, from embeddings."""
        omega = self.omega(clock)
        adv, clean = nt_xent(z_adv, self.tau), nt_xent(z, self.tau)
        return {"loss": (1 + omega) * adv + (1 - omega) * clean, "adv": adv, "clean": clean}
