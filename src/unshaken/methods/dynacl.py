"""DynACL: ACL whose augmentation is annealed while ω rises, against a momentum encoder.

Luo et al., "Rethinking the Effect of Data Augmentation in Adversarial Contrastive Learning", ICLR 2023,
arXiv:2303.01289, as released (PKU-ML/DYNACL, train_DynACL.py at 7d143db). The strength s of the augmentation falls in
steps (the recipe's `strength`), and ω = λ (1 − s) with λ = 2/3. The base of DynACL-AIR has neither the momentum encoder
nor the halved loss: it is `ACL` with the same schedules, the recipe dynacl-plain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unshaken.base.ranges import Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock, StepSchedule
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class DynACL(Method):
    """min_θ ½ [(1 + ω) l_CL(h_θ(x̃ⁱ), h_ξ(x̃ʲ)) + (1 − ω) l_CL(h_θ(xⁱ), h_ξ(xʲ))],   ξ ← m ξ + (1 − m) θ.

    x̃ is the argmax of the first l_CL over both balls, through both networks. The gradient reaches θ only, through the
    first views. ξ is what training returns. The released code differs in two ways: ξ moves after its forward passes
    (the same sequence, one step later), and ω rises one epoch before s falls.
    """

    acl: ACL = ACL(omega=StepSchedule(0.0, 2 / 3, every=50))
    momentum: Unit = 0.99
    """m, the weight of the old ξ in each step of the moving average."""

    routes: ClassVar = ACL.routes
    teacher: ClassVar = "momentum"

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum is a number in [0, 1], not {self.momentum:g}")

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        h.teacher.follow(h, self.momentum)
        z_adv, z = self.acl.embed(Pair(h), batch, key)  # pyright: ignore[reportArgumentType]
        terms = self.acl.contrast(z_adv, z, clock)
        return terms | {"loss": terms["loss"] / 2}


class Pair(nn.Module):
    """A network that embeds the first view itself, and the second by its teacher."""

    def __init__(self, h: Network) -> None:
        super().__init__()
        self.h = h

    def forward(self, x: Float[Tensor, "2 N C H W"], route: str) -> Float[Tensor, "2 N D"]:
        return torch.stack([self.h(x[0], route), self.h.teacher(x[1], route)])
