"""RoCL as released: all views are anchors, and a gradient reaches anchors only.

Kim-Minseon/RoCL, loss.py, attack_lib.py and rocl_train.py at b6d5185.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unshaken.base.types import Float
from unshaken.losses.contrastive import mean_over_pairs, pairwise_info_nce
from unshaken.nets.network import Network


def contrast(z: Float[Tensor, "V N D"], tau: float) -> Float[Tensor, ""]:
    """Return (1 / VN) Σ −log e(z_kᵘ, sg(z_kᵛ)) / Σ_{z′ ≠ z_kᵘ} e(z_kᵘ, sg(z′)), over images k and views u ≠ v.

    Each positive has a logarithm of its own, where the paper has one for all positives of an anchor. sg(·) passes no
    gradient. With two views it is NT-Xent, but for sg(·).
    """
    return (len(z) - 1) * mean_over_pairs(pairwise_info_nce(z, tau, z.detach()))  # an anchor has V − 1 positives


def embed(
    h: Network, x: Float[Tensor, "N C H W"], x_other: Float[Tensor, "N C H W"], x_adv: Float[Tensor, "N C H W"]
) -> tuple[Float[Tensor, "3 N D"], Float[Tensor, "2 N D"]]:
    """Embed t(x)ᵃᵈᵛ and t′(x) for λ's term in a forward pass of their own, before that of all three views."""
    z_pair = h(torch.stack([x_adv, x_other]), "shared")
    return h(torch.stack([x, x_other, x_adv]), "shared"), z_pair
