"""ResNet-18/34/50 with a stem for small images or that of ImageNet, and a small ResNet for digits.

He et al., CVPR 2016, arXiv:1512.03385. Parameters are named as in torchvision (conv1, bn1,
layer1.0.conv1, layer2.0.downsample.0, ...), so that weights can be exchanged by name.
"""

from __future__ import annotations

from torch import Tensor, nn

from unshaken.base.types import Float
from unshaken.nets.activation_checkpointing import CheckpointedStage

SMALL = 64
"""The largest side in pixels of images for which a ResNet has the small stem, one 3×3 convolution without a pool."""


def conv3x3(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)


def conv1x1(width_in: int, width: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(width_in, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 (with the stride), 1×1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv1x1(width_in, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv1x1(width, 4 * width), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(width_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.downsample(x))


def _shortcut(width_in: int, width_out: int, stride: int) -> nn.Module:
    if stride == 1 and width_in == width_out:
        return nn.Identity()
    return nn.Sequential(conv1x1(width_in, width_out, stride), nn.BatchNorm2d(width_out))


class ResNet(nn.Module):
    """A ResNet from normalised images (N C H W) to features (N D) after a global average pool.

    blocks    the number of blocks in each stage; every stage after the first halves the resolution
    width     the width of the first stage; each later stage doubles it
    side      of the images in pixels. Up to SMALL: one 3×3 convolution at full resolution; above: ImageNet's stem, 7×7
              with stride 2 and a max pool
    padding   the padding of the 3×3 stem; each pixel above 1 makes the following maps 2 pixels larger
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        width: int,
        side: int,
        channels: int,
        padding: int = 1,
    ) -> None:
        super().__init__()
        small = side <= SMALL
        kernel, stride, padding = (3, 1, padding) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.stages = len(blocks)
        width_in = width
        for stage, count in enumerate(blocks):
            layers = []
            for k in range(count):
                layers.append(block(width_in, width << stage, stride=2 if k == 0 and stage > 0 else 1))
                width_in = (width << stage) * block.expansion
            self.add_module(f"layer{stage + 1}", CheckpointedStage(*layers))
        self.features = width_in
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return pooled(x)


def pooled(x: Float[Tensor, "N D h w"]) -> Float[Tensor, "N D"]:
    """Average each feature map. The permutation makes the gradient channels-last, as convolutions expect it."""
    return x.permute(0, 2, 3, 1).mean((1, 2))


KINDS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...], int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet-small": (BasicBlock, (1, 1), 32),
}
"""The block, the blocks per stage, and the first stage's width, by name."""


def resnet(name: str, side: int, channels: int = 3, padding: int = 1) -> ResNet:
    return ResNet(*KINDS[name], side, channels, padding)
