"""Corruption: a common corruption at a severity, for images of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from unshaken.base.ranges import Range, ranged
from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom
from unshaken.base.types import Float, Int
from unshaken.corruptions import blur, digital, noise, spatter, weather
from unshaken.corruptions.severity import EXTRA, FIFTEEN, TABLES, Which, check, constants, suited
from unshaken.transforms.base import CACHED_PIXELS

SUBSTITUTES = {"frost": "ice drawn here instead of the published photographs"}
"""Corruptions that differ from the published ones, and how; results report it."""

_MODULES = (noise, blur, weather, digital, spatter)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: next(getattr(module, name) for module in _MODULES if hasattr(module, name)) for name in (*FIFTEEN, *EXTRA)
}


@dataclass(frozen=True)
@ranged
class Corruption:
    """One of the corruptions of CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261).

    Images are rounded to 8 bits (multiples of 1/255) first, and the result is rounded down to 8 bits, as in the
    published files. Random draws for an image depend on the key, the corruption, the severity and the index of the
    image, and on nothing else in the batch. Arithmetic is in float64, so that after rounding the result does not depend
    on the batch or the device (for JPEG: with the same version of libjpeg).

    The constants are those of CIFAR-10-C below 128 pixels and those of ImageNet-C from there on (`used`). Lengths are
    in proportion to the side of the image (`severity.constants`). An image of one channel is treated as three equal
    channels, and the result is their luma.
    """

    name: str
    """Name of the corruption, such as gaussian_noise."""
    severity: Annotated[int, Range(1, 5)]
    """From 1, the mildest, to 5."""
    constants: Which | None = None
    """The data set whose constants are used; None: chosen by the side of the image."""

    def __post_init__(self) -> None:
        check(self.name, self.severity)
        if self.constants not in (None, *TABLES):
            raise ValueError(f"constants is {' or '.join(TABLES)}, not {self.constants!r}")

    def used(self, side: int) -> Which:
        """Return whose constants are used for images of this side; results report it."""
        return self.constants or suited(side)

    @property
    def substitute(self) -> str | None:
        """How this differs from the published corruption, or None; results report it."""
        return SUBSTITUTES.get(self.name)

    def __call__(self, x: Float[Tensor, "N C H W"], key: Key, index: Int[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
        """Return corrupted images in [0, 1], from images in [0, 1] of 1 or 3 channels.

        index  the index of each image in its data set. ValueError if shapes or types do not fit
        """
        if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
            raise ValueError(f"corruptions take floats (N, 1 or 3, H, W), not {x.dtype} of shape {tuple(x.shape)}")
        if index.shape != x.shape[:1] or index.dtype != torch.int64:
            raise ValueError(f"{len(x)} images need {len(x)} int64 indices, not {index.dtype} {tuple(index.shape)}")
        if len(x) == 0:
            return x.clone()
        side = min(x.shape[2:])
        how = constants(self.name, self.severity, self.used(side), side)
        key = key / self.name / self.severity
        device = torch.device("cpu") if x.device.type == "mps" else x.device  # Apple's GPUs have no float64
        chunk = max(1, CACHED_PIXELS // x.shape[2:].numel()) if device.type == "cpu" else len(x)
        result = torch.empty_like(x)
        for target, image, at in zip(result.split(chunk), x.split(chunk), index.to(device).split(chunk), strict=True):
            levels = (255 * image.to(device).double()).round_().clamp_(0, 255) / 255
            target.copy_(blur.eight_bits(FUNCTIONS[self.name](levels, SampleRandom(key, at), *how)))
        return result


def corruptions(names: tuple[str, ...] = FIFTEEN, constants: Which | None = None) -> tuple[Corruption, ...]:
    """Return the named corruptions, each at severities 1 to 5 in a row."""
    return tuple(Corruption(name, severity, constants) for name in names for severity in range(1, 6))
