"""Which encoder: a network by name, for which pixels, and the normalisation inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unshaken.nets.embed import Encoder, Normalize
from unshaken.nets.resnet import Stem, resnet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """Which encoder."""

    name: Literal["resnet18", "resnet34", "resnet50", "resnet-small"] = "resnet18"
    stem: Stem = 32
    """For which side in pixels."""
    channels: int = 3
    """3, or 1 for grey images."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of the normalisation inside the network, one a channel; the ACL family uses ImageNet's for all sets."""
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.channels} channels need as many means and standard deviations, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    def build(self) -> Encoder:
        net = resnet(self.name, self.stem, self.channels)
        return Encoder(Normalize(self.mean, self.std), net, net.features)
