"""AFF: adversarial full fine-tuning by TRADES, over one batch-norm route or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import NonNegative, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, LossTerms
from unshaken.losses.divergence import kl_rows
from unshaken.losses.trades import trades
from unshaken.methods.base import Method
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True)
@ranged
class AFF(Method):
    """min_{c,f} CE(c(f(x)), y) + β KL(c(f(x)) ‖ c(f(x̃))),   x̃ = argmax over B_ε[x] of the same KL.

    natural  the route of the clean images: "clean" is the dual form (adversarial images go through "adv",
             which is the one that is kept), "adv" the single one, where the clean route has no part; a network
             without routes has only one way
    target   of the attack: the natural route's answers; or the clean route's, though the loss takes another's, as the
             released post-processing of DynACL-AIR++ has it
    """

    attack: PGD = PGD(steps=10, init="gaussian")
    beta: NonNegative = 6.0
    natural: Literal["clean", "adv"] = "clean"
    target: Literal["natural", "clean"] = "natural"

    views: ClassVar = 1
    labels: ClassVar = "true"

    @property
    def routes(self) -> tuple[str, ...]:
        return ("clean", "adv") if "clean" in (self.natural, self.target) else ("adv",)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,) = batch.views
        with frozen(h):
            with torch.no_grad():
                target = h(x, self.natural if self.target == "natural" else "clean")
            x_adv = self.attack(lambda x_adv: kl_rows(target, h(x_adv, "adv")), x, (key / "attack").on(x.device))
        loss, natural, robust = trades(h(x, self.natural), h(x_adv, "adv"), batch.label, self.beta)  # pyright: ignore[reportArgumentType]
        return {"loss": loss, "natural": natural, "robust": robust}
