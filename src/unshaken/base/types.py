"""Types that all modules share: a batch, the terms of a loss, the letters of tensor shapes.

Shape letters: V views, N batch, C H W an image, D embedding, K classes.
`Float[Tensor, "V N D"]` is a jaxtyping annotation. Nothing checks it when the library is used; the tests check
every call of every function with such annotations (tests/conftest.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool as Bool
from jaxtyping import Float as Float
from jaxtyping import Int as Int
from jaxtyping import UInt8 as UInt8
from torch import Tensor

LossTerms = dict[str, Tensor]
"""Scalars by name. "loss" is minimised; all terms are logged."""


@dataclass(frozen=True)
class Batch:
    """The images of one training step. Pixels are in [0, 1].

    views  (V N C H W)  augmented views
    image  (N C H W)    the same images without augmentation
    label  (N ...)      classes or pseudo-labels; None if the method uses none
    index  (N)          the images' indices in the image set
    """

    views: Float[Tensor, "V N C H W"]
    image: Float[Tensor, "N C H W"]
    label: Int[Tensor, "N ..."] | None
    index: Int[Tensor, "N"]

    def to(self, device: torch.device) -> Batch:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in held.items()}
        return Batch(**moved)
