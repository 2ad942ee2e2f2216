"""AdvCL: adversarial contrastive learning with high frequencies and pseudo-labels.

Fan et al., "When Does Contrastive Learning Preserve Adversarial Robustness from Pretraining to Finetuning?",
NeurIPS 2021, arXiv:2111.01124.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import NonNegative, Positive, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Float, Int, LossTerms
from unshaken.losses.contrastive import check_temperature, multi_view
from unshaken.methods.base import Method, run_attack
from unshaken.methods.released import advcl as released
from unshaken.nets.network import Network, frozen
from unshaken.transforms.high_pass import high_pass

Contrast = Callable[[Tensor], Tensor]
"""Embeddings (4 N D) to l_CL."""


@dataclass(frozen=True)
@ranged
class AdvCL(Method):
    """min_θ l_CL(x_cl, τ₁(x), τ₂(x), x_h) + λ l_CE(x_ce),   (x_cl, x_ce) = argmax over B_ε[x] × B_ε[x] of the same.

    x is a weak view (cropped, flipped), τ₁(x) and τ₂(x) are strong views, and x_h is the high-frequency part of x. l_CL
    contrasts each of the four views with the three others of its image. l_CE is the cross-entropy with pseudo-labels,
    averaged over clusterings. x_cl goes through the route "adv", x_ce through "adv_ce". The three clean views go
    through "clean" in one forward pass, so that the statistics of eval mode, which the attack uses, are those of the
    update.
    """

    attack: PGD = PGD(Linf(8 / 255), steps=5)
    tau: Positive = 0.5
    """τ, the temperature of l_CL."""
    ce_weight: NonNegative = 0.2
    """λ, the weight of l_CE."""
    radius: NonNegative = 8.0
    """Frequencies below this, in cycles per image, are removed from x_h; 8 is right for images of 32 pixels."""
    form: Literal["paper", "released"] = "paper"
    """paper: the equation of the paper. released: what the authors' code computes (methods/released/advcl.py). It
    multiplies l_CL by τ/0.07, attacks in train mode, and normalises each clean view separately."""

    routes: ClassVar = ("clean", "adv", "adv_ce")
    views: ClassVar = 3
    labels: ClassVar = "clusters"

    def __post_init__(self) -> None:
        check_temperature(self.tau)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        x_clean = self.clean(batch)
        x_adv = self.adversarial(h, batch, x_clean, self.contrast, key)
        z, ce = self.embed(h, x_adv, lambda: self.embed_clean(h, x_clean), batch.label)  # pyright: ignore[reportArgumentType]
        return self.total(self.contrast(z), ce)

    def clean(self, batch: Batch) -> Float[Tensor, "3 N C H W"]:
        """Return τ₁(x), τ₂(x) and x_h."""
        strong_1, strong_2, x = batch.views
        return torch.stack([strong_1, strong_2, high_pass(x, self.radius)])

    def adversarial(
        self, h: Network, batch: Batch, x_clean: Float[Tensor, "3 N C H W"], contrast: Contrast, key: Key
    ) -> Float[Tensor, "2 N C H W"]:
        """Return x_cl and x_ce: two copies of x, each from a random start of its own, attacked at the same time."""

        def objective(x_adv: Tensor, clean: Callable[[], Tensor]) -> Tensor:
            z, ce = self.embed(h, x_adv, clean, batch.label)  # pyright: ignore[reportArgumentType]
            return self.total(contrast(z), ce)["loss"]

        x = batch.views[2]
        return FORMS[self.form].attack_views(self.attack, h, objective, x_clean, torch.stack([x, x]), key)

    def embed(
        self, h: Network, x_adv: Float[Tensor, "2 N C H W"], clean: Callable[[], Tensor], label: Int[Tensor, "N L"]
    ) -> tuple[Float[Tensor, "4 N D"], Float[Tensor, ""]]:
        """Return the embeddings of the four views, x_cl first, and l_CE(x_ce). `clean` embeds the clean views, last."""
        x_cl, x_ce = x_adv
        z_cl, *_ = h.head.split(h(x_cl, "adv"))  # pyright: ignore[reportCallIssue]
        _, *logits = h.head.split(h(x_ce, "adv_ce"))  # pyright: ignore[reportCallIssue]
        ce = torch.stack([cross_entropy(y, k) for y, k in zip(logits, label.unbind(1), strict=True)]).mean()
        return torch.cat([z_cl[None], clean()]), ce

    def embed_clean(self, h: Network, x_clean: Float[Tensor, "3 N C H W"]) -> Float[Tensor, "3 N D"]:
        """Return the embeddings of the three clean views."""
        return FORMS[self.form].embed_clean(h, x_clean)

    def contrast(self, z: Float[Tensor, "4 N D"]) -> Float[Tensor, ""]:
        """Return l_CL."""
        return multi_view(z, self.tau)

    def total(self, contrast: Float[Tensor, ""], ce: Float[Tensor, ""]) -> LossTerms:
        """Return l_CL + λ l_CE, and both terms."""
        return {
            "loss": FORMS[self.form].scale(self.tau) * contrast + self.ce_weight * ce,
            "contrast": contrast,
            "ce": ce,
        }


def embed_clean(h: Network, x: Float[Tensor, "3 N C H W"]) -> Float[Tensor, "3 N D"]:
    """Return the embeddings of the clean views, which share one forward pass and its batch statistics."""
    return h.head.split(h(x, "clean"))[0]  # pyright: ignore[reportCallIssue]


def attack_views(
    attack: PGD,
    h: Network,
    objective: Callable[[Tensor, Callable[[], Tensor]], Tensor],
    x_clean: Float[Tensor, "3 N C H W"],
    x: Float[Tensor, "2 N C H W"],
    key: Key,
) -> Float[Tensor, "2 N C H W"]:
    """Return x_cl and x_ce, found in eval mode."""
    with frozen(h):
        with torch.no_grad():
            z = embed_clean(h, x_clean)  # in eval mode it does not depend on the attacked images: once is enough
        return run_attack(attack, h, lambda x_adv: objective(x_adv, lambda: z), x, key)


class Form(NamedTuple):
    """The steps in which the paper and the released code differ."""

    scale: Callable[[float], float]
    embed_clean: Callable[[Network, Tensor], Tensor]
    attack_views: Callable[..., Tensor]


FORMS = {
    "paper": Form(lambda tau: 1, embed_clean, attack_views),
    "released": Form(released.scale, released.embed_clean, released.attack_views),
}
