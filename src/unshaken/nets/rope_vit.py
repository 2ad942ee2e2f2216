"""DINOv3's Vision Transformer by its numbers: rotary positions, so that it reads any side"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from unshaken.base.ranges import Count, Natural, Positive, ranged
from unshaken.nets.timm_nets import timm_package


@dataclass(frozen=True)
@ranged
class RopeViT:
    """A Vision Transformer with rotary position embeddings, built by timm's class and with timm's names.

    side    usual side of its images in pixels; no weight depends on it
    pool    what the embedding is: the class token, or the mean of the patch tokens
    biased  queries and values have a bias; keys have none
    gated   the MLPs are gated (SwiGLU), as in H+ and 7B
    """

    side: Count = 224
    patch: Count = 16
    width: Count = 384
    depth: Count = 12
    heads: Count = 6
    hidden: Count = 1536
    registers: Natural = 4
    pool: Literal["class", "mean"] = "class"
    eps: Positive = 1e-5
    biased: bool = True
    gated: bool = False

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise ValueError(f"{self.heads} heads do not fit the width of {self.width}: name them by --heads")

    @property
    def name(self) -> str:
        return f"rope-vit-{self.width}x{self.depth}-patch{self.patch}"

    @property
    def step(self) -> int:
        """The side of an image is a multiple of this."""
        return self.patch

    @property
    def activation(self) -> str:
        return "silu, gated" if self.gated else "gelu"

    def build(self, side: int, channels: int) -> tuple[nn.Module, int]:
        """Build the network with initial weights; return it and its number of features."""
        timm_package()
        from timm.layers import LayerNorm
        from timm.models.eva import Eva

        net = Eva(
            img_size=side,
            patch_size=self.patch,
            in_chans=channels,
            num_classes=0,
            global_pool={"class": "token", "mean": "avg"}[self.pool],
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            mlp_ratio=(self.hidden + 0.5) / self.width,
            swiglu_mlp=self.gated,
            swiglu_align_to=int(self.gated),  # 1: timm then keeps the gate apart, and does not round the width
            qkv_bias=self.biased,
            init_values=1e-5,
            rope_type="dinov3",
            rope_temperature=100,
            rope_rotate_half=True,
            use_rot_pos_emb=True,
            use_abs_pos_emb=False,
            num_reg_tokens=self.registers,
            use_fc_norm=False,
            dynamic_img_size=True,
            norm_layer=partial(LayerNorm, eps=self.eps),
        )
        return net, self.width
