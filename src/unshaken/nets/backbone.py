"""The choice of an encoder: network, image size, and the normalisation inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro
from torch import nn

from unshaken.base.own_code import keywords
from unshaken.base.ranges import Count, Natural, Number, Positive, ranged
from unshaken.base.safe_text import last_part
from unshaken.base.serialize import LATER, UNSAVED
from unshaken.base.suggest import did_you_mean
from unshaken.nets.network import Encoder, Normalize
from unshaken.nets.own_nets import allow, build, code, features_of, give, is_own, name_of
from unshaken.nets.resnet import KINDS, SMALL, resnet
from unshaken.nets.solo_wide_resnet import is_solo_wrn, solo_depth_and_widen, solo_wrn
from unshaken.nets.timm_nets import PATCHES, timm_config, timm_net, vit_small
from unshaken.nets.variants import AnyVariant
from unshaken.nets.wide_resnet import depth_and_widen, wrn

LARGEST = 4096
"""The largest side of an image in pixels, the same as in the header of a file."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
@ranged
class Backbone:
    """The architecture of an encoder."""

    name: str = "resnet18"
    """resnet18, resnet34, resnet50, resnet-small, wrn-28-10 (or another depth and factor), wide_resnet28w10 (DeACL's),
    vit-small, timm/NAME, or a function or class of your own that makes a network from images to features, mine.py:net
    or package.module:net."""
    image_size: Count = 32
    """Image size in pixels (the side of a square). A ResNet has a 3×3 stem without a pool up to 64 pixels, and
    ImageNet's 7×7 stem with a pool above. A network of your own takes any size."""
    channels: Count = 3
    """Colour channels: 3, or 1 for grey images."""
    mean: tuple[Number, ...] = IMAGENET_MEAN
    """Mean of the normalisation inside the network, per channel. The ACL family always uses ImageNet's."""
    std: tuple[Positive, ...] = IMAGENET_STD
    """Standard deviation of the normalisation, per channel."""
    padding: Natural = 1
    """Padding of the 3×3 stem convolution of a ResNet for small images; DeACL's published encoders have 2."""
    variant: Annotated[AnyVariant | None, tyro.conf.Fixed, tyro.conf.Suppress] = field(default=None, metadata=LATER)
    """The network by its numbers, of an imported encoder; `name` then only says what it is."""
    args: str = field(default="", metadata=LATER)
    """Arguments of a function of your own, as Python writes them: "width=64, norm='batch'"."""
    module: Annotated[nn.Module | None, tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default=None, repr=False, compare=False, metadata=UNSAVED
    )
    """A network given as an object: `Backbone.of`."""

    def __post_init__(self) -> None:
        if self.own:
            keywords(self.args)
        elif self.args:
            raise ValueError(f"only a function of your own has arguments, mine.py:net, and {self.name} is none")
        possible = Sides() if self.own else sides(self.name) if not self.variant else Sides(step=self.variant.step)
        if self.image_size not in possible:
            raise ValueError(
                f"{self.name} reads images of {possible}, not {self.image_size}: set --backbone.image-size"
            )
        if self.padding != 1 and (self.name not in KINDS or self.image_size > SMALL or self.padding < 0):
            raise ValueError(
                f"a padding of {self.padding} is not possible here: only a ResNet for images of up to {SMALL} pixels "
                f"({', '.join(KINDS)}) may have another padding than 1, and it is 0 or more"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.channels} channels need as many means and standard deviations, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    @classmethod
    def of(
        cls,
        network: nn.Module | Callable[..., nn.Module],
        image_size: int = 32,
        channels: int = 3,
        mean: tuple[float, ...] = (),
        std: tuple[float, ...] = (),
        **args: Any,
    ) -> Backbone:
        """Take a network of your own: a function or class that makes it, with its arguments, or a module.

        The network maps images in [0, 1] (N C H W), or normalised ones if there are mean and std, to features (N D).
        A function or class in a file or module is called again whenever the network is needed. A module, and what a
        lambda or a local function makes, is copied; another process has to give one like it before it can load a run.
        """
        name = "" if isinstance(network, nn.Module) else name_of(network)
        module = None
        if not name:
            module = network if isinstance(network, nn.Module) else network(**args)
            name, args = give(module), {}
        allow(name)
        written = ", ".join(f"{key}={value!r}" for key, value in args.items())
        mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
        return cls(name, image_size, channels, mean, std, args=written, module=module)

    @property
    def own(self) -> bool:
        """The network is a user's own, made by a function or given as an object."""
        return self.variant is None and is_own(self.name)

    @property
    def elsewhere(self) -> Backbone:
        """The same without the folder of a user's own file, which is of this machine alone."""
        return replace(self, name=last_part(self.name)) if self.own else self

    @property
    def code(self) -> str:
        """8 digits that change with the code of a network of your own, and with the weights of a given one; else ""."""
        return code(self.name, self.module) if self.own else ""

    def build(self) -> Encoder:
        """Build the encoder with initial weights. ValueError if timm is needed and is missing or lacks the network."""
        if self.variant is not None:
            return self._encoder(*self.variant.build(self.image_size, self.channels))
        if self.own:
            filled = {"image_size": self.image_size, "channels": self.channels}
            net = build(self.name, self.args, filled, self.module)
            return self._encoder(net, features_of(net, self.name, self.channels, self.image_size))
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


@dataclass(frozen=True)
class Sides:
    """Sides of images in pixels: the multiples of `step` from `least` to `most`."""

    least: int = 1
    most: int = LARGEST
    step: int = 1

    def __contains__(self, side: int) -> bool:
        return self.least <= side <= self.most and side % self.step == 0

    def __str__(self) -> str:
        bounds = f"{self.least} to {self.most:,}" if self.least > 1 else f"up to {self.most:,}"
        return f"{bounds} pixels" + (f" in multiples of {self.step}" if self.step > 1 else "")


def sides(name: str) -> Sides:
    """Return the image sides in pixels that a network can be built for. ValueError if there is no such network.

    The name of a timm network is checked only when it is built, so that a recipe can be read without timm.
    """
    if name in KINDS or name.removeprefix("timm/") not in ("", name):
        return Sides()
    if name.startswith("wrn-"):
        depth_and_widen(name)
        return Sides(most=SMALL)  # its stem has no stride, so larger images would be too expensive
    if is_solo_wrn(name):
        solo_depth_and_widen(name)
        return Sides(most=SMALL)
    if name == "vit-small":
        return Sides(least=PATCHES, step=PATCHES)
    hint = did_you_mean(name, [*KINDS, "wrn-28-10", "vit-small"])
    raise ValueError(
        f"there is no network {name!r}: choose one of {', '.join(KINDS)}, wrn-28-10 (or another depth and factor), "
        f"wide_resnet28w10, vit-small, timm/NAME, or one of your own, mine.py:FUNCTION{hint}"
    )


def timm_encoder(name: str, side: int | None = None, pretrained: bool = True) -> tuple[Encoder, Backbone]:
    """Return a timm network with its published weights and normalisation, and the Backbone that builds it again.

    name        "timm/NAME", as in Backbone; a tag selects the weights: timm/resnet18.a1_in1k
    side        the images' side in pixels; None: the side of its training
    pretrained  download the weights; False keeps initial weights
    Raises ValueError for a network without published weights.
    """
    timm_name = name.removeprefix("timm/")
    config = timm_config(timm_name)
    channels, own, _ = config.input_size
    if pretrained and not config.has_weights:
        raise ValueError(f"timm has no weights for {name}; a network with initial weights needs no import")
    backbone = Backbone(f"timm/{timm_name}", side or own, channels, tuple(config.mean), tuple(config.std))  # pyright: ignore[reportArgumentType]
    return backbone._encoder(*timm_net(timm_name, backbone.image_size, channels, pretrained)), backbone
