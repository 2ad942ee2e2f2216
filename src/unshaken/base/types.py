"""What passes between the parts: a batch, a loss's terms, the shape letters.

Shape letters: V views, N batch, C H W an image, D embedding, K classes.
`Float[Tensor, "V N D"]` is a type of jaxtyping: nothing checks it while the library is used, and the tests
check every call of every function that carries one (tests/conftest.py).
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
"""Scalars by name. "loss" is minimised; all are logged."""


@dataclass(frozen=True)
class Batch:
    """What one step sees. Pixels are in [0, 1].

    views  (V N C H W)  augmented views; views have an axis of their own
    image  (N C H W)    the same images, un-augmented
    label  (N ...)      classes or pseudo-labels, or None where nothing is learned from them
    index  (N)          which images of the set these are
    """

    views: Float[Tensor, "V N C H W"]
    image: Float[Tensor, "N C H W"]
    label: Int[Tensor, "N ..."] | None
    index: Int[Tensor, "N"]

    def to(self, device: torch.device) -> Batch:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in held.items()}
        return Batch(**moved)
