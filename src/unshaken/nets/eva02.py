"""EVA-02 as in CLIP, by its numbers: learned and rotary positions, gated MLPs"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unshaken.base.ranges import Count, Positive, ranged
from unshaken.nets.eva import EvaByTimm

ROTARY_GRID = (16, 16)
"""The grid of patches whose rotary positions are 0, 1, ... in all published networks; those of another are scaled."""


@dataclass(frozen=True)
@ranged
class Eva02(EvaByTimm):
    """EVA-02 of CLIP (Sun et al. 2023, arXiv:2303.15389), B and L, built by timm's class and with timm's names.

    side    side in pixels of the images that its positions were learned for
    hidden  width of a gated MLP
    out     width of the projected class token
    """

    side: Count = 224
    patch: Count = 16
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    hidden: Count = 2048
    out: Count = 512
    eps: Positive = 1e-6
    pool: Literal["projection"] = "projection"

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise ValueError(f"{self.heads} heads do not fit the width of {self.width}: name them by --heads")

    @property
    def name(self) -> str:
        return f"eva02-{self.width}x{self.depth}-patch{self.patch}"

    @property
    def activation(self) -> str:
        return "silu, gated"

    @property
    def parts(self) -> dict[str, Any]:
        gated: dict[str, Any] = {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "qkv_fused": False}
        return gated | {"use_rot_pos_emb": True, "ref_feat_shape": ROTARY_GRID}
