"""Common corruptions: nineteen at five severities, for any image set, each image by its own draws."""

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
from unshaken.transforms.views import CACHED_PIXELS

SUBSTITUTES = {"frost": "ice drawn here instead of the published photographs"}
"""Where a corruption is not the published one, and why; a result says so."""

_WHERE = (noise, blur, weather, digital, spatter)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    name: next(getattr(module, name) for module in _WHERE if hasattr(module, name)) for name in (*FIFTEEN, *EXTRA)
}


@dataclass(frozen=True)
@ranged
class Corruption:
    """One of the corruptions of CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261).

    Images are taken as 8-bit ones (rounded to multiples of 1/255) and come out as such: cut, not rounded, to 8 bits,
    as the published files are. What chance decides for an image depends on the key, the corruption, the severity and
    the image's own index, on nothing else in the batch. Arithmetic is in float64, so that after the cut to 8 bits
    neither the batch nor the device shows (JPEG: with one version of libjpeg).

    The constants are those of CIFAR-10-C below 128 pixels and of ImageNet-C from there on (`used`), with lengths in
    proportion to the image's side (`severity.constants`). One channel is what three equal ones would give, as luma.
    """

    name: str
    severity: Annotated[int, Range(1, 5)]
    constants: Which | None = None
    """None: by the image's side."""

    def __post_init__(self) -> None:
        check(self.name, self.severity)
        if self.constants not in (None, *TABLES):
            raise ValueError(f"the constants are {' or '.join(TABLES)}, not {self.constants!r}")

    def used(self, side: int) -> Which:
        """Whose constants an image of this side gets, for a result to say."""
        return self.constants or suited(side)

    @property
    def substitute(self) -> str | None:
        """In which way this is not the published corruption, for a result to say; None if it is."""
        return SUBSTITUTES.get(self.name)

    def __call__(self, x: Float[Tensor, "N C H W"], key: Key, index: Int[Tensor, "N"]) -> Float[Tensor, "N C H W"]:
        """Images in [0, 1], of 1 or 3 channels; `index` says which of their set they are."""
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
        for part, image, at in zip(result.split(chunk), x.split(chunk), index.to(device).split(chunk), strict=True):
            levels = (255 * image.to(device).double()).round_().clamp_(0, 255) / 255
            part.copy_(blur.eight_bits(FUNCTIONS[self.name](levels, SampleRandom(key, at), *how)))
        return result


def corruptions(names: tuple[str, ...] = FIFTEEN, constants: Which | None = None) -> tuple[Corruption, ...]:
    """Each of the named ones at severities 1 to 5, names in the outer order."""
    return tuple(Corruption(name, severity, constants) for name in names for severity in range(1, 6))
