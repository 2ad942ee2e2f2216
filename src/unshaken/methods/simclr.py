"""SimCLR: contrastive learning (CL), the baseline without attacks.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv:2002.05709.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unshaken.base.ranges import Positive, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, LossTerms
from unshaken.losses.contrastive import check_temperature, nt_xent
from unshaken.methods.base import Method
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class SimCLR(Method):
    """min_θ l_CL(xⁱ, xʲ)."""

    tau: Positive = 0.5
    """τ, the temperature."""

    routes: ClassVar = ("clean",)

    def __post_init__(self) -> None:
        check_temperature(self.tau)

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        return {"loss": nt_xent(h(batch.views, "clean"), self.tau)}
