"""RoCL: contrastive learning with an instance-wise adversary.

Kim et al., "Adversarial Self-Supervised Contrastive Learning", NeurIPS 2020, arXiv:2006.07589.

    L_con(x, {x_pos}, {x_neg}) = −log Σ_pos e(x, x_pos) / (Σ_pos e(x, x_pos) + Σ_neg e(x, x_neg)),

with e(a, b) = exp(sim(h(a), h(b))/τ); x_neg are the other images, in each of the views that x and x_pos are.
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
from unshaken.losses.contrastive import check_temperature, info_nce, mean_over_pairs, pairwise_info_nce
from unshaken.methods.base import Method
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
    weight: NonNegative = 1 / 256
    """λ."""
    form: Literal["paper", "released"] = "paper"
    """paper: the equation above. released: what the authors' code computes (Kim-Minseon/RoCL, loss.py, attack_lib.py
    and rocl_train.py at b6d5185). All three views are anchors in turn and each positive has a logarithm of its own:
    (1/3N) Σ of the six; the attack and λ's term are NT-Xent, both views being anchors; no gradient flows to what an
    anchor is compared with; λ's term embeds t(x)ᵃᵈᵛ and t′(x) once more, without t(x), before all three."""

    routes: ClassVar = ("shared",)

    def __post_init__(self) -> None:
        check_temperature(self.tau)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z, z_pair = self.embed(h, batch, key)
        return self.total(self.contrast(z), z_pair)

    def embed(self, h: Network, batch: Batch, key: Key) -> tuple[Float[Tensor, "3 N D"], Float[Tensor, "2 N D"]]:
        """Embeddings of t(x), t′(x) and t(x)ᵃᵈᵛ; then those of λ's term, of t(x)ᵃᵈᵛ and t′(x)."""
        x, x_other = batch.views
        x_adv = self.adversarial(h, batch.views, key)
        again = h(torch.stack([x_adv, x_other]), "shared") if self.form == "released" else None
        z = h(torch.stack([x, x_other, x_adv]), "shared")
        return z, torch.stack([z[2], z[1]]) if again is None else again

    def adversarial(self, h: Network, views: Float[Tensor, "2 N C H W"], key: Key) -> Float[Tensor, "N C H W"]:
        """t(x)ᵃᵈᵛ: the first view moves away from the second, which stays."""
        x, x_other = views
        with frozen(h):
            with torch.no_grad():
                z_other = h(x_other, "shared")  # in eval mode it depends on no other image: once is enough
            return self.attack(
                lambda x_adv: self.apart(torch.stack([h(x_adv, "shared"), z_other])),
                x,
                (key / "attack").on(x.device),
            )

    def contrast(self, z: Float[Tensor, "3 N D"]) -> Float[Tensor, ""]:
        """L_con(t(x), {t′(x), t(x)ᵃᵈᵛ}, {t(x)_neg})."""
        if self.form == "released":
            return 2 * mean_over_pairs(pairwise_info_nce(z, self.tau, z.detach()))  # each of 3N anchors has 2 positives
        return info_nce(z, self.tau)

    def apart(self, z_pair: Float[Tensor, "2 N D"]) -> Float[Tensor, ""]:
        """L_con(t(x)ᵃᵈᵛ, {t′(x)}, {t(x)_neg}): what the attack raises and λ's term lowers."""
        if self.form == "released":
            return mean_over_pairs(pairwise_info_nce(z_pair, self.tau, z_pair.detach()))
        return info_nce(z_pair, self.tau)

    def total(self, contrast: Float[Tensor, ""], z_pair: Float[Tensor, "2 N D"]) -> LossTerms:
        adv = self.apart(z_pair)
        return {"loss": contrast + self.weight * adv, "contrast": contrast, "adv": adv}
