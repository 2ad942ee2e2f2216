"""What a header asks to be built is held against what the file holds, before memory is taken for it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from unshaken.nets.backbone import Backbone
from unshaken.nets.routed import routed

SPARE = 1 << 20
"""Numbers that a network may have more than twice those of its file: then loading it says what is missing."""


def check_size(backbone: Backbone, routes: tuple[str, ...], classes: int, tensors: Mapping[str, Tensor]) -> None:
    """ValueError if a network has far more numbers than a file holds; it is built without memory for that."""
    held = sum(tensor.numel() for tensor in tensors.values())
    wide = re.fullmatch(r"(?:wrn-|wide_resnet)(\d+)[-w](\d+)", backbone.name)
    if wide and (len(max(wide.groups(), key=len)) > 4 or int(wide[1]) > 10 + len(tensors)) or len(routes) > 16:
        raise ValueError(f"a {backbone.name} with {len(routes)} routes has more than its {len(tensors)} tensors")
    widest = max((tensor.shape[-1] for tensor in tensors.values() if tensor.ndim == 2), default=1)
    needed = max(_numbers(backbone, routes), classes * widest)
    if needed > 2 * held + SPARE:
        raise ValueError(f"a {backbone.name} has {needed:,} numbers, and the file holds {held:,}")


def _numbers(backbone: Backbone, routes: tuple[str, ...]) -> int:
    try:
        with torch.device("meta"):
            encoder = backbone.build()
            net = routed(encoder, routes) if routes else encoder
    except (NotImplementedError, RuntimeError):  # a network of timm's that looks at its numbers as it is built
        return 0
    return sum(tensor.numel() for tensor in net.state_dict().values())
