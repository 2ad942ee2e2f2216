"""EVA as in CLIP, by its numbers: EVA-01's g, and EVA-02's E with norms after its layers"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from unshaken.base.ranges import Count, Positive, ranged
from unshaken.nets.timm_nets import timm_package


class EvaByTimm:
    """A network of timm's class Eva, with timm's names; `parts` are the arguments in which the kinds differ."""

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    out: int
    eps: float

    @property
    def step(self) -> int:
        """The side of an image is a multiple of this."""
        return self.patch

    @property
    def parts(self) -> dict[str, Any]:
        return {}

    def build(self, side: int, channels: int) -> tuple[nn.Module, int]:
        """Build the network with initial weights; return it and its number of features."""
        timm_package()
        from timm.layers import LayerNorm
        from timm.models.eva import Eva as Network

        net = Network(
            img_size=self.side,
            patch_size=self.patch,
            in_chans=channels,
            num_classes=self.out,
            global_pool="token",
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            mlp_ratio=(self.hidden + 0.5) / self.width,  # timm rounds the product down
            dynamic_img_size=True,
            norm_layer=partial(LayerNorm, eps=self.eps),
            **self.parts,
        )
        return net, self.out


@dataclass(frozen=True)
@ranged
class Eva(EvaByTimm):
    """EVA of CLIP (Sun et al. 2023, arXiv:2303.15389), g and E, built by timm's class and with timm's names.

    side       side in pixels of the images that its positions were learned for
    hidden     width of an MLP
    out        width of the projected class token
    post_norm  norms after attention and MLP, of what they add, as in E; before them, as in g
    """

    side: Count = 224
    patch: Count = 14
    width: Count = 1408
    depth: Count = 40
    heads: Count = 16
    hidden: Count = 6144
    out: Count = 1024
    post_norm: bool = False
    eps: Positive = 1e-6
    pool: Literal["projection"] = "projection"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not fit the width of {self.width}: name them by --heads")

    @property
    def name(self) -> str:
        return f"eva-{self.width}x{self.depth}-patch{self.patch}"

    @property
    def activation(self) -> str:
        return "gelu"

    @property
    def parts(self) -> dict[str, Any]:
        return {"use_post_norm": self.post_norm}
