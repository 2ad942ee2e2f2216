"""AdvCL: adversarial contrastive learning with high frequencies and pseudo-labels.

Fan et al., "When Does Contrastive Learning Preserve Adversarial Robustness from Pretraining to Finetuning?",
NeurIPS 2021, arXiv:2111.01124.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

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
from unshaken.methods.base import Method
from unshaken.nets.network import Network, frozen
from unshaken.transforms.high_pass import high_pass

BASE_TAU = 0.07
"""SupCon's reference code multiplies its loss by τ over this, its own τ, which AdvCL's code left as it was."""

Contrast = Callable[[Tensor], Tensor]
"""Embeddings (4 N D) to l_CL."""


@dataclass(frozen=True)
@ranged
class AdvCL(Method):
    """min_θ l_CL(x_cl, τ₁(x), τ₂(x), x_h) + λ l_CE(x_ce),   (x_cl, x_ce) = argmax over B_ε[x] × B_ε[x] of the same.

    x is a weak view (cropped, flipped), τ₁(x) and τ₂(x) are strong ones, x_h is the high-frequency part of x. l_CL
    contrasts each of the four views with the three others of its image; l_CE is the mean over clusterings of the
    cross-entropy with pseudo-labels. x_cl goes through the route "adv", x_ce through "adv_ce", the clean three through
    "clean", in one forward pass, so that the statistics which eval mode and thus the attack use are those that the
    update saw.
    """

    attack: PGD = PGD(Linf(8 / 255), steps=5)
    tau: Positive = 0.5
    ce_weight: NonNegative = 0.2
    """λ."""
    radius: NonNegative = 8.0
    """Frequencies nearer to 0 than this, in cycles an image, are not in x_h; 8 is meant for images of 32 pixels."""
    form: Literal["paper", "released"] = "paper"
    """released: what the authors' code computes (LijieFan/AdvCL, losses.py and pretraining_advCL.py at 24cb7a6). l_CL
    is multiplied by τ/0.07; the attack is in train mode, so that each of its steps updates the running statistics of
    all three routes; and each clean view is normalised by itself."""

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
        """τ₁(x), τ₂(x) and x_h."""
        strong_1, strong_2, x = batch.views
        return torch.stack([strong_1, strong_2, high_pass(x, self.radius)])

    def adversarial(
        self, h: Network, batch: Batch, x_clean: Float[Tensor, "3 N C H W"], contrast: Contrast, key: Key
    ) -> Float[Tensor, "2 N C H W"]:
        """x_cl and x_ce: two copies of x move at once, each from a start of its own."""

        @torch.no_grad()
        def embed_clean() -> Tensor:
            return self.embed_clean(h, x_clean)

        def climb(clean: Callable[[], Tensor]) -> Tensor:
            def objective(x_adv: Tensor) -> Tensor:
                z, ce = self.embed(h, x_adv, clean, batch.label)  # pyright: ignore[reportArgumentType]
                return self.total(contrast(z), ce)["loss"]

            x = batch.views[2]
            return self.attack(objective, torch.stack([x, x]), (key / "attack").on(x.device))

        if self.form == "released":
            return climb(embed_clean)
        with frozen(h):
            z = embed_clean()  # in eval mode it does not depend on what moves: once is enough
            return climb(lambda: z)

    def embed(
        self, h: Network, x_adv: Float[Tensor, "2 N C H W"], clean: Callable[[], Tensor], label: Int[Tensor, "N L"]
    ) -> tuple[Float[Tensor, "4 N D"], Float[Tensor, ""]]:
        """The four views' embeddings, x_cl's first, and l_CE(x_ce)."""
        x_cl, x_ce = x_adv
        z_cl, *_ = h.head.split(h(x_cl, "adv"))  # pyright: ignore[reportCallIssue]
        _, *logits = h.head.split(h(x_ce, "adv_ce"))  # pyright: ignore[reportCallIssue]
        ce = torch.stack([cross_entropy(y, k) for y, k in zip(logits, label.unbind(1), strict=True)]).mean()
        return torch.cat([z_cl[None], clean()]), ce

    def embed_clean(self, h: Network, x_clean: Float[Tensor, "3 N C H W"]) -> Float[Tensor, "3 N D"]:
        if self.form == "released":
            return torch.stack([h.head.split(h(x, "clean"))[0] for x in x_clean])  # pyright: ignore[reportCallIssue]
        return h.head.split(h(x_clean, "clean"))[0]  # pyright: ignore[reportCallIssue]

    def contrast(self, z: Float[Tensor, "4 N D"]) -> Float[Tensor, ""]:
        """l_CL."""
        return multi_view(z, self.tau)

    def total(self, contrast: Float[Tensor, ""], ce: Float[Tensor, ""]) -> LossTerms:
        scale = self.tau / BASE_TAU if self.form == "released" else 1
        return {"loss": scale * contrast + self.ce_weight * ce, "contrast": contrast, "ce": ce}
