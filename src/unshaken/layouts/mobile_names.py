"""Names of weights in files of EfficientNet-Lite and of torchvision's MobileNetV2, translated to timm's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from unshaken.layouts.architecture import Shapes, shapes_of
from unshaken.layouts.foreign import Container, ForeignCheckpoint
from unshaken.layouts.published import IMAGENET, Normalisation
from unshaken.nets.timm_nets import timm_config

LITE: Normalisation = ((127 / 255,) * 3, (128 / 255,) * 3)
"""The normalisation of EfficientNet-Lite's own code: (x − 127)/128 of pixels from 0 to 255."""


@dataclass(frozen=True)
class Translation:
    """Files of one family of networks that timm has under other names.

    signs          names of weights, without a prefix, that such files have
    networks       timm's networks of this family; the first whose shapes fit is taken
    part           a function of a weight's name and of timm's block names to timm's name; None: it is not the network's
    """

    what: str
    signs: tuple[str, ...]
    networks: tuple[str, ...]
    part: Callable[[str, list[str], bool], str | None]
    normalisation: Normalisation

    def names(self, theirs: Iterable[str], network: str) -> dict[str, str]:
        """Return timm's name for each name in a file."""
        theirs = list(theirs)
        blocks = blocks_of(shapes_of(f"timm/{network}", 224, 3))
        found = {name: self.part(name, blocks, _expands(name, theirs)) for name in theirs}
        return {name: new for name, new in found.items() if new is not None}


def blocks_of(shapes: Shapes) -> list[str]:
    """Return timm's names of a network's blocks, in order: blocks.0.0, blocks.1.0, blocks.1.1, ..."""
    return list(dict.fromkeys(at[0] for name in shapes if (at := re.match(r"blocks\.\d+\.\d+", name))))


def _expands(name: str, names: list[str]) -> bool:
    """Return whether the block that a weight is of begins with a 1x1 convolution that adds channels."""
    if at := re.match(r"_blocks\.\d+\.", name):
        return f"{at[0]}_expand_conv.weight" in names
    at = re.match(r"features\.\d+\.conv\.", name)
    return bool(at) and f"{at[0]}3.weight" in names


LITE_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE_BLOCK = {
    True: {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    },
    False: {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
}
V2_BLOCK = {
    True: {
        "0.0": "conv_pw",
        "0.1": "bn1",
        "1.0": "conv_dw",
        "1.1": "bn2",
        "2": "conv_pwl",
        "3": "bn3",
    },
    False: {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"},
}


def lite_name(name: str, blocks: list[str], expands: bool) -> str | None:
    """Return timm's name of a weight of EfficientNet-Lite."""
    if at := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        part, number = LITE_BLOCK[expands].get(at[2]), int(at[1])
        return None if part is None or number >= len(blocks) else f"{blocks[number]}.{part}.{at[3]}"
    module, _, leaf = name.rpartition(".")
    return f"{LITE_OUTSIDE[module]}.{leaf}" if module in LITE_OUTSIDE else None


def mobilenet_v2_name(name: str, blocks: list[str], expands: bool) -> str | None:
    """Return timm's name of a weight of torchvision's MobileNetV2."""
    last = len(blocks) + 1
    outside = {"features.0.0": "conv_stem", "features.0.1": "bn1", "classifier.1": "classifier"}
    outside |= {f"features.{last}.0": "conv_head", f"features.{last}.1": "bn2"}
    if at := re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", name):
        part, number = V2_BLOCK[expands].get(at[2]), int(at[1]) - 1
        return f"{blocks[number]}.{part}.{at[3]}" if part is not None and 0 <= number < len(blocks) else None
    module, _, leaf = name.rpartition(".")
    return f"{outside[module]}.{leaf}" if module in outside else None


TRANSLATIONS = {
    "efficientnet-lite": Translation(
        "EfficientNet-Lite in PyTorch, with names such as _blocks.0._depthwise_conv",
        ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_conv_head.weight"),
        tuple(f"tf_efficientnet_lite{size}" for size in range(5)),
        lite_name,
        LITE,
    ),
    "mobilenetv2": Translation(
        "torchvision's MobileNetV2, with names such as features.1.conv.0.0",
        ("features.0.0.weight", "features.1.conv.0.0.weight", "features.2.conv.3.weight"),
        ("mobilenetv2_100", "mobilenetv2_050", "mobilenetv2_140"),
        mobilenet_v2_name,
        IMAGENET,
    ),
}
"""Families by the name of their layout."""


@dataclass(frozen=True)
class Translated:
    """A file whose weights have timm's names, and the network of timm that they are of."""

    layout: str
    what: str
    foreign: ForeignCheckpoint
    network: str
    normalisation: Normalisation


def translated(foreign: ForeignCheckpoint, key: str | None = None, prefix: str | None = None) -> Translated | None:
    """Translate a file of one of these families. None if it is of none, or if its shapes fit no network of timm."""
    for container in foreign.containers:
        if key not in (None, container.key):
            continue
        for layout, family in TRANSLATIONS.items():
            start = _prefix(container, family, prefix)
            inner = {n.removeprefix(start): t for n, t in container.tensors.items() if n.startswith(start)} if (
                start is not None
            ) else {}  # fmt: skip
            for network in family.networks if inner else ():
                names = family.names(inner, network)
                if _fits({names[n]: tensor for n, tensor in inner.items() if n in names}, network):
                    tensors = {names.get(name, name): tensor for name, tensor in inner.items()}
                    one = replace(foreign, containers=(Container(container.key, tensors),))
                    return Translated(layout, family.what, one, f"timm/{network}", family.normalisation)
    return None


def _prefix(container: Container, family: Translation, prefix: str | None) -> str | None:
    """Return the prefix under which all signs are found; None if there is none."""
    if prefix is not None:
        starts = [prefix + ("." if prefix and not prefix.endswith(".") else "")]
    else:
        starts = [name.removesuffix(family.signs[0]) for name in container.tensors if name.endswith(family.signs[0])]
    return next((s for s in starts if all(f"{s}{sign}" in container.tensors for sign in family.signs)), None)


def _fits(tensors: Mapping[str, Any], network: str) -> bool:
    """Return whether all weights of a network of timm are there, in its shapes."""
    shapes = shapes_of(f"timm/{network}", 224, timm_config(network).input_size[0])
    needed = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    return all(name in tensors and tuple(tensors[name].shape) == shape for name, shape in needed.items())
