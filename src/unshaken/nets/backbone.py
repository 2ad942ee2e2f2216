"""Which encoder: a network by name, for which pixels, and the normalisation inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import nn

from unshaken.base.ranges import Count, Natural, Number, Positive, ranged
from unshaken.base.suggest import did_you_mean
from unshaken.nets.network import Encoder, Normalize
from unshaken.nets.resnet import KINDS, Stem, resnet
from unshaken.nets.solo_wide_resnet import is_solo_wrn, solo_depth_and_widen, solo_wrn
from unshaken.nets.timm_nets import PATCHES, timm_config, timm_net, vit_small
from unshaken.nets.wide_resnet import SIDES, depth_and_widen, wrn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
@ranged
class Backbone:
    """Which encoder."""

    name: str = "resnet18"
    """resnet18, resnet34, resnet50, resnet-small, wrn-28-10 (or another depth and factor), wide_resnet28w10 (DeACL's),
    vit-small, or timm/NAME."""
    image_size: Stem = 32
    """For which side in pixels."""
    channels: Count = 3
    """3, or 1 for grey images."""
    mean: tuple[Number, ...] = IMAGENET_MEAN
    """Of the normalisation inside the network, one a channel; the ACL family uses ImageNet's for all sets."""
    std: tuple[Positive, ...] = IMAGENET_STD
    padding: Natural = 1
    """Of the 3×3 stem convolution of a 32-pixel ResNet; DeACL's published encoders have 2."""

    def __post_init__(self) -> None:
        if self.image_size not in sides(self.name):
            known = ", ".join(map(str, sides(self.name)))
            raise ValueError(f"{self.name} is built for images of {known} pixels, not {self.image_size}: set the stem")
        if self.padding != 1 and (self.name not in KINDS or self.image_size > 32 or self.padding < 0):
            raise ValueError(
                f"a padding of {self.padding} is not possible: it is 1 but in a ResNet for 8 or 32 pixels "
                f"({', '.join(KINDS)}), where it is 0 or more"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.channels} channels need as many means and standard deviations, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    def build(self) -> Encoder:
        """With initial weights. ValueError if the network is timm's and timm is not there, or has none of this name."""
        if self.name in KINDS:
            net = resnet(self.name, self.image_size, self.channels, self.padding)
            return self._encoder(net, net.features)
        if self.name.startswith("wrn-"):
            net = wrn(self.name, self.channels)
            return self._encoder(net, net.features)
        if is_solo_wrn(self.name):
            net = solo_wrn(self.name, self.channels)
            return self._encoder(net, net.features)
        if self.name == "vit-small":
            return self._encoder(*vit_small(self.image_size, self.channels))
        return self._encoder(*timm_net(self.name.removeprefix("timm/"), self.image_size, self.channels))

    def _encoder(self, net: nn.Module, features: int) -> Encoder:
        return Encoder(Normalize(self.mean, self.std), net, features)


def sides(name: str) -> tuple[int, ...]:
    """In pixels, for which a network can be built. ValueError if there is none of this name.

    Of timm's networks the name is looked up when one is built, so that a recipe can be read without timm.
    """
    if name in KINDS or name.removeprefix("timm/") not in ("", name):
        return get_args(Stem)
    if name.startswith("wrn-"):
        depth_and_widen(name)
        return SIDES
    if is_solo_wrn(name):
        solo_depth_and_widen(name)
        return SIDES
    if name == "vit-small":
        return tuple(PATCHES)
    hint = did_you_mean(name, [*KINDS, "wrn-28-10", "vit-small"])
    raise ValueError(
        f"there is no network {name!r}: it is none of {', '.join(KINDS)}, wrn-28-10 (or another depth and factor), "
        f"wide_resnet28w10, vit-small, timm/NAME{hint}"
    )


def timm_encoder(name: str, stem: Stem | None = None, pretrained: bool = True) -> tuple[Encoder, Backbone]:
    """A network of timm's with its published weights and normalisation, and what builds it again.

    name        "timm/NAME", as in Backbone; a tag says which weights: timm/resnet18.a1_in1k
    stem        for which side in pixels; None for the one it was trained at, if that is a stem
    pretrained  download the weights; False leaves initial ones
    Raises ValueError for a name without weights, and for a side that is no stem.
    """
    known = name.removeprefix("timm/")
    config = timm_config(known)
    channels, side, _ = config.input_size
    if stem is None and side not in get_args(Stem):
        stems = ", ".join(map(str, get_args(Stem)))
        raise ValueError(f"{name} was trained at {side} pixels: choose a stem for the side to build it for, of {stems}")
    if pretrained and not config.has_weights:
        raise ValueError(f"timm has no weights for {name}; a network with initial weights needs no import")
    backbone = Backbone(f"timm/{known}", stem or side, channels, tuple(config.mean), tuple(config.std))  # pyright: ignore[reportArgumentType]
    return backbone._encoder(*timm_net(known, backbone.image_size, channels, pretrained)), backbone
