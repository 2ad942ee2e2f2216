"""EVA-02 as in CLIP, by its numbers: learned and rotary positions, gated MLPs"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from unshaken.base.ranges import Count, Positive, ranged
from unshaken.nets.timm_nets import timm_package

ROTARY_GRID = (16, 16)
"""The grid of patches whose rotary positions are 0, 1, ... in all published networks; those of another are scaled."""


@dataclass(frozen=True)
@ranged
class Eva02:
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
    def step(self) -> int:
        """The side of an image is a multiple of this."""
        return self.patch

    @property
    def activation(self) -> str:
        return "silu, gated"

    def build(self, side: int, channels: int) -> tuple[nn.Module, int]:
        """Build the network with initial weights; return it and its number of features."""
        timm_package()
        from timm.layers import LayerNorm
        from timm.models.eva import Eva

        net = Eva(
            img_size=self.side,
            patch_size=self.patch,
            in_chans=channels,
            num_classes=self.out,
            global_pool="token",
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            qkv_fused=False,
            mlp_ratio=(self.hidden + 0.5) / self.width,  # timm rounds the product down
            swiglu_mlp=True,
            scale_mlp=True,
            scale_attn_inner=True,
            use_rot_pos_emb=True,
            ref_feat_shape=ROTARY_GRID,
            dynamic_img_size=True,
            norm_layer=partial(LayerNorm, eps=self.eps),
        )
        return net, self.out
