"""The choice of an encoder: network, image size, and the normalisation inside it."""

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
    """The architecture of an encoder."""

    name: str = "resnet18"
    """resnet18, resnet34, resnet50, resnet-small, wrn-28-10 (or another depth and factor), wide_resnet28w10 (DeACL's),
    vit-small, or timm/NAME."""
    image_size: Stem = 32
    """The images' side in pixels, which selects the stem."""
    channels: Count = 3
    """3, or 1 for grey images."""
    mean: tuple[Number, ...] = IMAGENET_MEAN
    """The mean of the normalisation inside the network, per channel; the ACL family always uses ImageNet's."""
    std: tuple[Positive, ...] = IMAGENET_STD
    """The standard deviation of the normalisation, per channel."""
    padding: Natural = 1
    """The padding of the 3×3 stem convolution of a 32-pixel ResNet; DeACL's published encoders have 2."""

    def __post_init__(self) -> None:
        if self.image_size not in sides(self.name):
            possible = ", ".join(map(str, sides(self.name)))
            raise ValueError(
                f"{self.name} reads images of {possible} pixels, not {self.image_size}: set --backbone.image-size"
            )
        if self.padding != 1 and (self.name not in KINDS or self.image_size > 32 or self.padding < 0):
            raise ValueError(
                f"a padding of {self.padding} is not possible here: only a ResNet for 8 or 32 pixels "
                f"({', '.join(KINDS)}) may have another padding than 1, and it is 0 or more"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.channels} channels need as many means and standard deviations, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    def build(self) -> Encoder:
        """Build the encoder with initial weights. ValueError if timm is needed and is missing or lacks the network."""
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
    """Return the image sides in pixels that a network can be built for. ValueError if there is no such network.

    The name of a timm network is checked only when it is built, so that a recipe can be read without timm.
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
        f"there is no network {name!r}: choose one of {', '.join(KINDS)}, wrn-28-10 (or another depth and factor), "
        f"wide_resnet28w10, vit-small, timm/NAME{hint}"
    )


def timm_encoder(name: str, stem: Stem | None = None, pretrained: bool = True) -> tuple[Encoder, Backbone]:
    """Return a timm network with its published weights and normalisation, and the Backbone that builds it again.

    name        "timm/NAME", as in Backbone; a tag selects the weights: timm/resnet18.a1_in1k
    stem        the images' side in pixels; None: the side of its training, if there is a stem for it
    pretrained  download the weights; False keeps initial weights
    Raises ValueError for a network without published weights, and for a side without a stem.
    """
    timm_name = name.removeprefix("timm/")
    config = timm_config(timm_name)
    channels, side, _ = config.input_size
    if stem is None and side not in get_args(Stem):
        stems = ", ".join(map(str, get_args(Stem)))
        raise ValueError(f"{name} was trained at {side} pixels: choose a stem for another side, one of {stems}")
    if pretrained and not config.has_weights:
        raise ValueError(f"timm has no weights for {name}; a network with initial weights needs no import")
    backbone = Backbone(f"timm/{timm_name}", stem or side, channels, tuple(config.mean), tuple(config.std))  # pyright: ignore[reportArgumentType]
    return backbone._encoder(*timm_net(timm_name, backbone.image_size, channels, pretrained)), backbone
