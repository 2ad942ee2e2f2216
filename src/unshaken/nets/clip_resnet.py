"""The ResNet of CLIP by its numbers: three convolutions for a stem, and pooling by attention"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from unshaken.base.ranges import Count, ranged
from unshaken.nets.timm_nets import timm_package


@dataclass(frozen=True)
@ranged
class ClipResNet:
    """A ResNet of CLIP, built by timm's class and with timm's names.

    side    side in pixels of the images that the pooling's positions were learned for: 32 for each of them
    layers  blocks in each of four stages
    width   width of the stem; each stage has four times as many channels as the one before had, at first
    """

    side: Count = 224
    layers: tuple[Count, ...] = (3, 4, 6, 3)
    width: Count = 64
    out: Count = 1024
    pool: Literal["projection"] = "projection"

    def __post_init__(self) -> None:
        if len(self.layers) != 4 or self.width % 2 or self.side % 32:
            raise ValueError(
                f"a ResNet of CLIP has four stages, an even width and a side of a multiple of 32, not {self.layers}, "
                f"{self.width} and {self.side}"
            )

    @property
    def name(self) -> str:
        return f"clip-resnet{3 * sum(self.layers) + 2}-{self.width}"

    @property
    def step(self) -> int:
        """The side of an image is a multiple of this."""
        return 32

    @property
    def activation(self) -> str:
        return "relu"

    @property
    def heads(self) -> int:
        """The number of heads of the pooling: each is 64 wide."""
        return self.width // 2

    def build(self, side: int, channels: int) -> tuple[nn.Module, int]:
        """Build the network with initial weights; return it and its number of features."""
        timm_package()
        from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

        stages = tuple(
            ByoBlockCfg(type="bottle", d=blocks, c=self.width << (k + 2), s=1 if k == 0 else 2, br=0.25)
            for k, blocks in enumerate(self.layers)
        )
        config = ByoModelCfg(
            blocks=stages,
            stem_chs=(self.width // 2, self.width // 2, self.width),
            stem_type="",
            stem_pool="avg2",
            downsample="avg",
            aa_layer="avg",
            head_type="attn_abs",
        )
        return ByobNet(config, num_classes=self.out, in_chans=channels, img_size=self.side), self.out
