"""ACL: adversarial contrastive learning; with two schedules, the base of DynACL.

Jiang et al., "Robust Pre-Training by Adversarial Contrastive Learning", NeurIPS 2020,
arXiv:2010.13337 (its dual-stream form). Luo et al., "Rethinking the Effect of Data Augmentation in
Adversarial Contrastive Learning", ICLR 2023, arXiv:2303.01289: the strength of the augmentation
falls in stairs (the recipe's `strength`) while ω rises (here).
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
from unshaken.methods.base import Method
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True)
@ranged
class ACL(Method):
    """min_θ (1 + ω) l_CL(x̃ⁱ, x̃ʲ) + (1 − ω) l_CL(xⁱ, xʲ),   (x̃ⁱ, x̃ʲ) = argmax over B_ε[xⁱ] × B_ε[xʲ] of l_CL(x̃ⁱ, x̃ʲ).

    Adversarial views go through the route "adv", clean ones through "clean"; the attack sees eval mode.
    The released ACL halves the sum, which under LARS only doubles the weight decay of 1e-6.
    """

    attack: PGD = PGD(Linf(8 / 255), steps=5)
    tau: Positive = 0.5
    omega: AnySchedule = Constant(0.0)

    routes: ClassVar = ("clean", "adv")

    def __post_init__(self) -> None:
        check_temperature(self.tau)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z_adv, z = self.embed(h, batch, key)
        return self.contrast(z_adv, z, clock)

    def embed(self, h: Network, batch: Batch, key: Key) -> tuple[Float[Tensor, "2 N D"], Float[Tensor, "2 N D"]]:
        """The adversarial views' embeddings, and the clean views'."""
        x_adv = self.adversarial(h, batch.views, key)
        return h(x_adv, "adv"), h(batch.views, "clean")

    def adversarial(self, h: Network, views: Float[Tensor, "2 N C H W"], key: Key) -> Float[Tensor, "2 N C H W"]:
        """Both views of every image move at once, against one loss over the whole batch."""
        with frozen(h):
            return self.attack(
                lambda x: nt_xent(h(x, "adv"), self.tau),
                views,
                (key / "attack").on(views.device),
            )

    def contrast(self, z_adv: Float[Tensor, "2 N D"], z: Float[Tensor, "2 N D"], clock: Clock) -> LossTerms:
        """The objective, from embeddings."""
        omega = self.omega(clock)
        adv, clean = nt_xent(z_adv, self.tau), nt_xent(z, self.tau)
        return {"loss": (1 + omega) * adv + (1 - omega) * clean, "adv": adv, "clean": clean}
