"""Recognition of a network by the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.resnet import KINDS, BasicBlock, Bottleneck
from unshaken.nets.timm_nets import timm_config

Shapes = Mapping[str, tuple[int, ...]]


@cache
def shapes_of(name: str, side: int, channels: int, routes: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights of a network. It is built on the meta device, which takes no memory."""
    blank = (0.0,) * channels
    with torch.device("meta"):
        encoder = Backbone(name, side, channels, blank, (1.0,) * channels).build()
        backbone = with_routes(encoder, routes).backbone if routes else encoder.backbone
    return {weight: tuple(tensor.shape) for weight, tensor in backbone.state_dict().items()}


def network_of(weights: Mapping[str, Any]) -> tuple[str, int, int]:
    """Recognise a ResNet: return its name, its image channels and the side of its first kernel.

    weights  by torchvision's names; those of a wide ResNet by the names in TRADES' code
    ValueError if they are of no ResNet that can be built.
    """
    conv = weights.get("conv1.weight")
    if conv is None or conv.ndim != 4 or conv.shape[-1] not in (3, 7):
        raise ValueError("there is no conv1.weight of 3x3 or 7x7")
    channels, kernel = int(conv.shape[1]), int(conv.shape[-1])
    if not 1 <= channels <= 256:
        raise ValueError(f"its conv1.weight is for images of {channels} channels")
    if blocks := _count(weights, r"block1\.layer\.(\d+)\."):
        first = weights.get("block1.layer.0.conv1.weight")
        depth, widen = 6 * blocks + 4, int(first.shape[0]) // 16 if first is not None and first.ndim else 0
        if kernel != 3 or widen < 1:
            raise ValueError("a wide ResNet must have a first convolution of 3x3 and at least 16 channels")
        biased = "conv1.bias" in weights
        return (f"wide_resnet{depth}w{widen}" if biased else f"wrn-{depth}-{widen}"), channels, kernel
    stages = _count(weights, r"layer(\d+)\.", start=1)
    blocks = tuple(_count(weights, rf"layer{stage + 1}\.(\d+)\.") for stage in range(stages))
    kind = Bottleneck if any(name.startswith("layer1.0.conv3.") for name in weights) else BasicBlock
    row = (kind, blocks, int(conv.shape[0]))
    name = next((name for name, each in KINDS.items() if each == row), None)
    if name is None:
        raise ValueError(f"a ResNet with {blocks} blocks and first width {row[2]} is none of {', '.join(KINDS)}")
    return name, channels, kernel


def _count(names: Mapping[str, Any], pattern: str, start: int = 0) -> int:
    """Count the different numbers that the pattern finds in the names; 0 if they are not consecutive."""
    found = {int(at[1]) for name in names if (at := re.match(pattern, name)) and len(at[1]) < 5}
    return len(found) if found == set(range(start, start + len(found))) else 0


def names_by_number(shapes: Shapes) -> dict[str, str] | None:
    """Return the modules of a ResNet in a Sequential by number: {"0": "conv1", "1": "bn1", "4": "layer1", ...}.

    None if the weights are not of such a Sequential. ValueError if its modules resemble a ResNet's but compute
    something else.
    """
    firsts = [
        int(at[1])
        for name, shape in shapes.items()
        if (at := re.fullmatch(r"(\d{1,3})\.weight", name)) and len(shape) == 4 and shape[-1] in (3, 7)
    ]
    stages = sorted({int(at[1]) for name in shapes if (at := re.match(r"(\d{1,3})\.\d+\.conv1\.", name))})
    if not firsts or not stages or f"{firsts[0] + 1}.running_mean" not in shapes:
        return None
    first, between = firsts[0], stages[0] - firsts[0]
    if stages != list(range(stages[0], stages[0] + len(stages))):
        return None
    kernel = shapes[f"{first}.weight"][-1]
    if between not in ((3, 4) if kernel == 3 else (4,)):
        lacks = "a ReLU" if between == 2 else "a ReLU and a pool" if kernel == 7 else "the modules"
        raise ValueError(
            f"its {kernel}x{kernel} convolution is number {first} and its blocks begin at {stages[0]}, so {lacks} that "
            "a ResNet has between them cannot be there: it computes something else"
        )
    return {str(first): "conv1", str(first + 1): "bn1"} | {
        str(number): f"layer{at}" for at, number in enumerate(stages, start=1)
    }


def timm_shapes(name: str, given: int | None, found: Shapes) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Return the image size for which a network of timm has the shapes that were found, and these shapes.

    given  the image size that the user named; None: timm's own size and the common ones are tried
    ValueError if timm has no such network, or cannot build it for any of these sizes.
    """
    config = timm_config(name.removeprefix("timm/"))
    sides = [given] if given else [config.input_size[-1], 224, 96, 32]
    built: dict[int, dict[str, tuple[int, ...]]] = {}
    for side in dict.fromkeys(sides):
        try:
            built[side] = shapes_of(name, side, config.input_size[0])
        except (AssertionError, ValueError, RuntimeError, TypeError, ZeroDivisionError):  # not for this image size
            continue
        if all(
            any(k.endswith(weight) and s == shape for k, s in found.items()) for weight, shape in built[side].items()
        ):
            return side, built[side]
    if not built:
        raise ValueError(
            f"{name} was trained at {config.input_size[-1]} pixels, which is none of the sizes that are tried: name "
            "the size of its images with --image-size"
        )
    return next(iter(built.items()))
