"""A-InfoNCE as released, on AdvCL and on RoCL.

yqy2001/A-InfoNCE at b28763e: Asym-AdvCL/losses.py and pretraining_advCL.py; Asym-RoCL/loss.py.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from unshaken.base.types import Float
from unshaken.losses.contrastive import Similarities
from unshaken.nets.network import Network


def overwrite(l_uv: Float[Tensor, "4 4 N"], weight: float) -> Float[Tensor, "4 4 N"]:
    """Return w l[a, c] in the entry [a, c], and w² l[a, c] in [c, a]: the code overwrites the matrix while it reads it.

    a is view 0. The code does so where no gradient is stopped: in the attack, and without inferior positives.
    """
    l_uv = l_uv.clone()
    l_uv[0] = weight * l_uv[0]
    l_uv[:, 0] = weight * l_uv[0]
    return l_uv


def nearness(d: Float[Tensor, ""], d_avg: Float[Tensor, ""], d_min: float) -> Float[Tensor, ""]:
    """Return 0 wherever d > d_avg, also where d < d_min; elsewhere as the paper."""
    return torch.where(d > d_avg, 0.0, torch.where(d_avg > d_min, ((d_avg - d) / (d_avg - d_min)).clamp(0, 1), 1.0))
