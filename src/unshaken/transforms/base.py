"""Views and Transform, the base classes of augmentations: random views of a batch, drawn first and then applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.shared_batch import own_rows, whole_shape
from unshaken.base.types import Float

CACHED_PIXELS = 2**16
"""Pixels that a CPU transforms at a time: 256 kB for each channel, which stay in the cache between operations."""

Drawn = tuple[Tensor, ...]
"""Random draws, computed as far as possible without pixels; one row for each sample."""


class Views(ABC):
    """A random transformation of images to `count` views of each.

    by_rows  processes that share a batch can each make the views of own rows, within `sharing`; if not, each makes all
    """

    count: int
    by_rows: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Float[Tensor, "V N C H W"]:
        """Return views of float32 images, all in [0, 1]; `strength` in [0, 1] is how far they may differ."""


class Transform(Views):
    """Views of one kind: `draw` makes the random draws, then `apply` transforms the pixels."""

    by_rows: ClassVar = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is a number of views ≥ 1, not {self.count}")

    def __call__(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Float[Tensor, "V N C H W"]:
        """Draw every view of every sample independently: the result for a sample does not depend on the others.

        ValueError if the strength is outside [0, 1], or the images are not float32 (N, C, H, W).
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"a strength lies in [0, 1], not {strength}")
        if image.ndim != 4 or image.dtype != torch.float32:
            raise ValueError(f"images are float32 (N, C, H, W), not {image.dtype} of shape {tuple(image.shape)}")
        views = image.new_empty((self.count, *image.shape))
        for v, view in enumerate(views if len(image) else ()):
            drawn = [own_rows(rows, 0) for rows in self.draw(whole_shape(image), strength, key / v)]
            self.apply_all(view, image, drawn)
        return views

    def apply_all(self, target: Float[Tensor, "N C H W"], image: Float[Tensor, "N C H W"], drawn: list[Tensor]) -> None:
        """Write one view of each image into `target`; a CPU transforms as many at a time as its cache holds."""
        on_cpu = image.device.type == "cpu"
        chunk = max(1, CACHED_PIXELS // image.shape[2:].numel() if on_cpu else len(image))
        for part, *inputs in zip(*(rows.split(chunk) for rows in (target, image, *drawn)), strict=True):
            part.copy_(self.apply(*inputs))

    @abstractmethod
    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        """Make the random draws for one view of each image; only the shape and device of the images count.

        All images are drawn at once, since for a CPU these are many small operations.
        """

    @abstractmethod
    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        """Return one view of each image, from its row of the random draws."""
