"""The ConvNeXt of open_clip by its numbers: its average is projected by one layer or by two"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from unshaken.base.ranges import Count, Natural, Positive, ranged
from unshaken.nets.timm_nets import timm_package


@dataclass(frozen=True)
@ranged
class ClipConvNeXt:
    """A ConvNeXt of open_clip, built by timm's class and with timm's names.

    side    usual side of its images in pixels; no weight depends on it
    depths  blocks in each of four stages
    widths  channels of each stage
    hidden  width of the layer before the projection; 0: there is none
    out     width of the embedding
    """

    side: Count = 256
    depths: tuple[Count, ...] = (3, 3, 27, 3)
    widths: tuple[Count, ...] = (128, 256, 512, 1024)
    hidden: Natural = 0
    out: Count = 640
    eps: Positive = 1e-6
    pool: Literal["projection"] = "projection"

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or len(self.widths) != 4:
            raise ValueError(f"a ConvNeXt has four stages, not {len(self.depths)} and {len(self.widths)}")

    @property
    def name(self) -> str:
        return f"clip-convnext{sum(self.depths)}-{self.widths[0]}"

    @property
    def step(self) -> int:
        """The side of an image is a multiple of this."""
        return 32

    @property
    def activation(self) -> str:
        return "gelu"

    @property
    def heads(self) -> int:
        """A convolutional network has no heads of attention."""
        return 0

    def build(self, side: int, channels: int) -> tuple[nn.Module, int]:
        """Build the network with initial weights; return it and its number of features."""
        timm_package()
        from timm.models.convnext import ConvNeXt

        net: Any = ConvNeXt(
            in_chans=channels,
            num_classes=self.out,
            depths=self.depths,
            dims=self.widths,
            head_hidden_size=self.hidden or None,
            norm_eps=self.eps,
        )
        net.head.fc.register_parameter("bias", None)  # timm's projection has one, which no file has room for
        return net, self.out
