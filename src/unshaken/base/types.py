"""Types that all modules share: a batch, the terms of a loss, the letters of tensor shapes.

Shape letters: V views, N batch, C H W an image, D embedding, K classes.
`Float[Tensor, "V N D"]` is a jaxtyping annotation. Nothing checks it when the library is used; the tests check
every call of every function with such annotations (tests/conftest.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool as Bool
from jaxtyping import Float as Float
from jaxtyping import Int as Int
from jaxtyping import UInt8 as UInt8
from torch import Tensor

from unshaken.base.shared_batch import Rows

LossTerms = dict[str, Tensor]
"""Scalars by name. "loss" is minimised; all terms are logged."""


@dataclass(frozen=True)
class Batch:
    """The images of one training step, or this process's images of it. Pixels are in [0, 1].

    views  (V n C H W)  augmented views
    image  (n C H W)    the same images without augmentation
    label  (N ...)      classes or pseudo-labels; None if the method uses none
    index  (n)          the images' indices in the image set
    rows   the rows of the batch that these images are, if processes share it. Labels are those of the whole batch, as
           the network's outputs are (nets/network.py). None: these images are the whole batch, and n = N
    """

    views: Float[Tensor, "V n C H W"]
    image: Float[Tensor, "n C H W"]
    label: Int[Tensor, "N ..."] | None
    index: Int[Tensor, "n"]
    rows: Rows | None = None

    @property
    def count(self) -> int:
        """The number of images of the whole batch."""
        return len(self.index) if self.rows is None else self.rows.total

    def to(self, device: torch.device) -> Batch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return replace(self, **moved)
