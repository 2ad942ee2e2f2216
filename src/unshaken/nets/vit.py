"""Vision Transformers by their numbers: CLIP, SigLIP, DINO, DINOv2, MAE, for any side"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unshaken.base.ranges import Count, Natural, Positive, ranged
from unshaken.base.types import Float
from unshaken.nets.timm_nets import timm_package

Pool = Literal["class", "mean", "projection", "attention"]
Resize = Literal["antialias", "plain", "offset", "corners"]


@dataclass(frozen=True)
@ranged
class ViT:
    """A Vision Transformer, built by timm's class and with timm's names. Its files say little of what is here.

    side            side in pixels of the images that the position embeddings were learned for
    out             width of the projection behind the class token; 0: there is none
    pool            what the embedding is: the class token, the mean of the patch tokens, the projected class token, or
                    the pooling by attention that SigLIP learned
    resize          how the position embeddings are resampled for images of another side: bicubic with antialiasing
                    (timm, open_clip), plain bicubic (transformers), bicubic by the scale (n + 0.1) / grid (DINO and
                    DINOv2 without registers), or bicubic from corner to corner (torchvision)
    registers       number of register tokens; they have no position
    class_position  the class token has a position embedding
    norm_pooled     the last norm follows the pooling
    """

    side: Count = 224
    patch: Count = 16
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    hidden: Count = 3072
    out: Natural = 0
    pool: Pool = "class"
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    eps: Positive = 1e-6
    resize: Resize = "antialias"
    registers: Natural = 0
    class_token: bool = True
    class_position: bool = True
    pre_norm: bool = False
    qkv_bias: bool = True
    layer_scale: bool = False
    swiglu: bool = False
    norm_pooled: bool = False
    patch_bias: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the width of {self.width}: name them by --heads")
        if self.pool == "projection" and not self.out or self.pool == "class" and not self.class_token:
            lacks = "projection" if self.pool == "projection" else "class token"
            raise ValueError(f"this network has no {lacks}: choose another --pool")

    @property
    def name(self) -> str:
        return f"vit-{self.width}x{self.depth}-patch{self.patch}"

    @property
    def step(self) -> int:
        """The side of an image is a multiple of this."""
        return self.patch

    def build(self, side: int, channels: int) -> tuple[nn.Module, int]:
        """Build the network with initial weights; return it and its number of features."""
        timm_package()
        from timm.layers import LayerNorm, SwiGLUPacked

        more: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if self.swiglu else {}
        net: Any = _network()(
            img_size=self.side,
            patch_size=self.patch,
            in_chans=channels,
            num_classes=self.out if self.pool == "projection" else 0,
            global_pool={"class": "token", "projection": "token", "mean": "avg", "attention": "map"}[self.pool],
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            mlp_ratio=(self.hidden + 0.5) / self.width,  # timm rounds the product down
            qkv_bias=self.qkv_bias,
            init_values=1e-5 if self.layer_scale else None,
            class_token=self.class_token,
            no_embed_class=True,
            reg_tokens=self.registers,
            pre_norm=self.pre_norm,
            fc_norm=self.norm_pooled,
            dynamic_img_size=True,
            norm_layer=partial(LayerNorm, eps=self.eps),
            **{"act_layer": self.activation} | more,
        )
        if self.class_token and self.class_position:
            net.pos_embed = nn.Parameter(torch.randn(1, net.pos_embed.shape[1] + 1, self.width) * 0.02)
        if self.patch_bias != (net.patch_embed.proj.bias is not None):
            bias = nn.Parameter(torch.zeros(self.width)) if self.patch_bias else None
            net.patch_embed.proj.register_parameter("bias", bias)
        if self.pool == "projection":  # timm's has a bias, which no file has room for
            net.head.register_parameter("bias", None)
        net.resize = self.resize
        return net, self.out if self.pool == "projection" else self.width


@cache
def _network() -> type[nn.Module]:
    """Return timm's Vision Transformer with its families' own ways to place position embeddings."""
    from timm.models.vision_transformer import VisionTransformer

    class Transformer(VisionTransformer):
        resize: Resize = "antialias"

        def _pos_embed(self, x: Float[Tensor, "N h w D"]) -> Float[Tensor, "N T D"]:
            n, height, width, _ = x.shape
            prefix = self.pos_embed.shape[1] - self.patch_embed.num_patches
            grid = resample(self.pos_embed[:, prefix:], (height, width), self.resize)
            x = x.flatten(1, 2) + grid
            tokens = [] if self.cls_token is None else [self.cls_token + self.pos_embed[:, :prefix].sum(1, True)]
            tokens += [] if self.reg_token is None else [self.reg_token]
            return self.pos_drop(torch.cat([*(token.expand(n, -1, -1) for token in tokens), x], 1))

    return Transformer


def resample(grid: Float[Tensor, "1 T D"], size: tuple[int, int], rule: Resize) -> Float[Tensor, "1 t D"]:
    """Return position embeddings for another grid. Those of the grid that they were learned for stay as they are."""
    side = math.isqrt(grid.shape[1])
    if size == (side, side):
        return grid
    planes = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    how: dict[str, Any] = {"mode": "bicubic", "antialias": rule == "antialias", "align_corners": rule == "corners"}
    if rule == "offset":  # the released code adds 0.1 against rounding, which moves all positions
        how |= {"scale_factor": tuple((n + 0.1) / side for n in size)}
    else:
        how |= {"size": size}
    found = interpolate(planes.float(), **how)
    assert found.shape[2:] == size, f"{found.shape[2:]} positions for {size}"
    return found.permute(0, 2, 3, 1).flatten(1, 2).to(grid.dtype)
