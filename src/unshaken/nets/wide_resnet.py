"""Wide residual networks (WRN-28-10 and others by depth and width) for 32 pixels.

Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146. Parameters are named as in TRADES' code and its descendants
(conv1, block1.layer.0.convShortcut, ..., bn1), which published robust models come from, so that weights can be
exchanged by name.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from torch import Tensor, nn

from unshaken.base.types import Float
from unshaken.nets.activation_checkpointing import CheckpointedStage
from unshaken.nets.resnet import conv1x1, conv3x3, pooled


class PreactivationBlock(nn.Module):
    """Two 3×3 convolutions with a batch norm and a ReLU before each, and a shortcut with no ReLU after the sum.

    Where the width changes, the shortcut is a 1×1 convolution (with the stride) of the activated input;
    elsewhere it is the input itself.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width_in), conv3x3(width_in, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3x3(width, width)
        self.relu = nn.ReLU(inplace=True)
        self.convShortcut = conv1x1(width_in, width, stride) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        y = self.conv2(self.relu(self.bn2(self.conv1(y))))
        return shortcut + y


class WideResNet(nn.Module):
    """A network from normalised images (N C H W) to features (N D) after a global average pool; D = 64 · widen.

    depth    6n + 4: three stages of n blocks, of 16, 32 and 64 times `widen` channels; the last two halve the
             resolution
    """

    block1: nn.Module
    block2: nn.Module
    block3: nn.Module

    def __init__(self, depth: int, widen: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 16)
        width_in = 16
        for stage, stride in ((1, 1), (2, 2), (3, 2)):
            width, layers = (8 << stage) * widen, []
            for k in range((depth - 4) // 6):
                layers.append(PreactivationBlock(width_in, width, stride if k == 0 else 1))
                width_in = width
            self.add_module(f"block{stage}", nn.Sequential(OrderedDict(layer=CheckpointedStage(*layers))))
        self.bn1, self.relu = nn.BatchNorm2d(width_in), nn.ReLU(inplace=True)
        self.features = width_in
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # N(0, 2/(k² · out)): He's initialisation for the backward pass
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return pooled(self.relu(self.bn1(x)))


def depth_and_widen(name: str) -> tuple[int, int]:
    """Parse "wrn-28-10" into (28, 10). ValueError if the name has another form or the depth is not 6n + 4."""
    found = re.fullmatch(r"wrn-([1-9]\d{,2})-([1-9]\d{,2})", name)
    depth, widen = map(int, found.groups()) if found else (0, 0)
    if depth < 10 or depth % 6 != 4:
        raise ValueError(
            f"there is no network {name!r}: it is wrn-DEPTH-WIDEN, with a depth of 6n + 4 below 1,000 and a factor of "
            "1 to 999, such as wrn-28-10"
        )
    return depth, widen


def wrn(name: str, channels: int = 3) -> WideResNet:
    return WideResNet(*depth_and_widen(name), channels)
