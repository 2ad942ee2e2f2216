"""The wide ResNet of solo-learn and DeACL (wide_resnet28w10), for 32 pixels.

Its parameters are named as in TRADES' wide ResNet (wide_resnet.py), but it is another function: its ReLUs are leaky
with slope 0.1, its convolutions have biases, its batch norms have ε = 0.001, and a block's shortcut takes the activated
input only in the first stage (pantheon5100/DeACL at 4d98dca, solo/models/wide_resnet.py).
"""

from __future__ import annotations

import re
from collections import OrderedDict

from torch import Tensor, nn

from unshaken.base.types import Float
from unshaken.nets.activation_checkpointing import CheckpointedStage
from unshaken.nets.resnet import pooled

SLOPE, EPSILON, MOMENTUM = 0.1, 1e-3, 1e-3


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=EPSILON, momentum=MOMENTUM)


class LeakyBlock(nn.Module):
    """Two 3×3 convolutions, a batch norm and a leaky ReLU before each.

    activated  where the width changes, the shortcut takes the activated input
    """

    def __init__(self, width_in: int, width: int, stride: int, activated: bool) -> None:
        super().__init__()
        self.bn1, self.conv1 = _norm(width_in), nn.Conv2d(width_in, width, 3, stride, padding=1)
        self.bn2, self.conv2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.LeakyReLU(SLOPE)
        self.convShortcut = nn.Conv2d(width_in, width, 1, stride) if width_in != width else None
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(x))
        through = y if self.activated or self.convShortcut is None else x  # the input of both convolutions
        shortcut = x if self.convShortcut is None else self.convShortcut(through)
        return shortcut + self.conv2(self.relu(self.bn2(self.conv1(through))))


class LeakyWideResNet(nn.Module):
    """A network from normalised images (N C H W) to features (N D) after a global average pool; D = 64 · widen."""

    block1: nn.Module
    block2: nn.Module
    block3: nn.Module

    def __init__(self, depth: int, widen: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        width_in = 16
        for stage, stride in ((1, 1), (2, 2), (3, 2)):
            width, layers = (8 << stage) * widen, []
            for k in range((depth - 4) // 6):
                layers.append(LeakyBlock(width_in, width, stride if k == 0 else 1, activated=stage == 1))
                width_in = width
            self.add_module(f"block{stage}", nn.Sequential(OrderedDict(layer=CheckpointedStage(*layers))))
        self.bn1, self.relu = _norm(width_in), nn.LeakyReLU(SLOPE)
        self.features = width_in
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return pooled(self.relu(self.bn1(x)))


def is_solo_wrn(name: str) -> bool:
    return name.startswith("wide_resnet")


def solo_depth_and_widen(name: str) -> tuple[int, int]:
    """Parse "wide_resnet28w10" into (28, 10). ValueError if there is no such network."""
    found = re.fullmatch(r"wide_resnet([1-9]\d{,2})w([1-9]\d{,2})", name)
    depth, widen = map(int, found.groups()) if found else (0, 0)
    if depth < 10 or depth % 6 != 4:
        raise ValueError(
            f"there is no network {name!r}: it is wide_resnetDEPTHwFACTOR with a depth of 6n + 4, both below 1,000, "
            "as wide_resnet28w10"
        )
    return depth, widen


def solo_wrn(name: str, channels: int = 3) -> LeakyWideResNet:
    return LeakyWideResNet(*solo_depth_and_widen(name), channels)
