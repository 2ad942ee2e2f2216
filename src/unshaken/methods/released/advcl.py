"""AdvCL as released: a scaled contrastive loss, an attack in train mode, separate clean passes.

LijieFan/AdvCL, losses.py and pretraining_advCL.py at 24cb7a6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.types import Float
from unshaken.nets.network import Network

BASE_TAU = 0.07
"""The temperature that SupCon's reference code was written for; AdvCL's code uses another and left this as it was."""


def scale(tau: float) -> float:
    """Return τ / 0.07, by which the code multiplies l_CL."""
    return tau / BASE_TAU


def embed_clean(h: Network, x: Float[Tensor, "3 N C H W"]) -> Float[Tensor, "3 N D"]:
    """Return the embeddings of the clean views, each of which has batch statistics of its own."""
    return torch.stack([h.head.split(h(view, "clean"))[0] for view in x])  # pyright: ignore[reportCallIssue]


def attack_views(
    attack: PGD,
    h: Network,
    objective: Callable[[Tensor, Callable[[], Tensor]], Tensor],
    x_clean: Float[Tensor, "3 N C H W"],
    x: Float[Tensor, "2 N C H W"],
    key: Key,
) -> Float[Tensor, "2 N C H W"]:
    """Return x_cl and x_ce, found in train mode: each step updates the running statistics of all three routes."""

    @torch.no_grad()
    def embed() -> Tensor:
        return embed_clean(h, x_clean)

    return attack(lambda x_adv: objective(x_adv, embed), x, None, key / "attack")
