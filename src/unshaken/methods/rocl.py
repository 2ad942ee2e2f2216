"""RoCL: contrastive learning with an instance-wise adversary.

Kim et al., "Adversarial Self-Supervised Contrastive Learning", NeurIPS 2020, arXiv:2006.07589.

    L_con(x, {x_pos}, {x_neg}) = −log Σ_pos e(x, x_pos) / (Σ_pos e(x, x_pos) + Σ_neg e(x, x_neg)),

with e(a, b) = exp(sim(h(a), h(b))/τ). x_neg are the other images of the batch, in each view that x or x_pos is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import NonNegative, Positive, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.losses.contrastive import check_temperature, info_nce
from unshaken.methods.base import Method, run_attack
from unshaken.methods.released import rocl as released
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True)
@ranged
class RoCL(Method):
    """min_θ L_con(t(x), {t′(x), t(x)ᵃᵈᵛ}, {t(x)_neg}) + λ L_con(t(x)ᵃᵈᵛ, {t′(x)}, {t(x)_neg}).

    t(x)ᵃᵈᵛ = argmax over B_ε[t(x)] of L_con(t(x)ᵃᵈᵛ, {t′(x)}, {t(x)_neg}), in eval mode. Clean and adversarial views
    share one route, and in the update one forward pass: the batch norms see their mixture.
    """

    attack: PGD = PGD(Linf(8 / 255), steps=7, rel_step_size=0.007 / 0.0314)
    tau: Positive = 0.5
    """τ, the temperature."""
    weight: NonNegative = 1 / 256
    """λ, the weight of the second term."""
    form: Literal["paper", "released"] = "paper"
    """paper: the equation of the paper. released: what the authors' code computes (methods/released/rocl.py): all views
    are anchors, each positive has its own logarithm, only anchors get gradients, and the λ term has a separate forward
    pass."""

    routes: ClassVar = ("shared",)

    def __post_init__(self) -> None:
        check_temperature(self.tau)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z, z_pair = self.embed(h, batch, key)
        return self.total(self.contrast(z), z_pair)

    def embed(self, h: Network, batch: Batch, key: Key) -> tuple[Float[Tensor, "3 N D"], Float[Tensor, "2 N D"]]:
        """Return the embeddings of t(x), t′(x) and t(x)ᵃᵈᵛ, and those of t(x)ᵃᵈᵛ and t′(x) for λ's term."""
        x_adv = self.adversarial(h, batch.views, key)
        _, embed = FORMS[self.form]
        x, x_other = batch.views
        return embed(h, x, x_other, x_adv)

    def adversarial(self, h: Network, views: Float[Tensor, "2 N C H W"], key: Key) -> Float[Tensor, "N C H W"]:
        """Return t(x)ᵃᵈᵛ: the first view moves away from the second, which stays."""
        x, x_other = views
        with frozen(h):
            with torch.no_grad():
                z_other = h(x_other, "shared")  # in eval mode it depends on no other image: once is enough

            def loss(x_adv: Tensor) -> Tensor:
                return self.apart(torch.stack([h(x_adv, "shared"), z_other]))

            return run_attack(self.attack, h, loss, x, key)

    def contrast(self, z: Float[Tensor, "3 N D"]) -> Float[Tensor, ""]:
        """Return L_con(t(x), {t′(x), t(x)ᵃᵈᵛ}, {t(x)_neg})."""
        l_con, _ = FORMS[self.form]
        return l_con(z, self.tau)

    def apart(self, z_pair: Float[Tensor, "2 N D"]) -> Float[Tensor, ""]:
        """Return L_con(t(x)ᵃᵈᵛ, {t′(x)}, {t(x)_neg}), which the attack raises and λ's term lowers."""
        l_con, _ = FORMS[self.form]
        return l_con(z_pair, self.tau)

    def total(self, contrast: Float[Tensor, ""], z_pair: Float[Tensor, "2 N D"]) -> LossTerms:
        """Return the objective and its two terms."""
        adv = self.apart(z_pair)
        return {"loss": contrast + self.weight * adv, "contrast": contrast, "adv": adv}


def embed(
    h: Network, x: Float[Tensor, "N C H W"], x_other: Float[Tensor, "N C H W"], x_adv: Float[Tensor, "N C H W"]
) -> tuple[Float[Tensor, "3 N D"], Float[Tensor, "2 N D"]]:
    """Embed all three views in one forward pass; λ's term takes its two from there."""
    z = h(torch.stack([x, x_other, x_adv]), "shared")
    return z, torch.stack([z[2], z[1]])


FORMS = {"paper": (info_nce, embed), "released": (released.contrast, released.embed)}
"""By name: L_con of embeddings (V N D) and τ, with view 0 as the paper's anchor, and how the views are embedded."""
