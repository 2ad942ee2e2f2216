"""A set of images: uint8 on the device, labels if there are any, split, content digest, indexing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import torch
from torch import Tensor

from unshaken.base.types import Float, Int
from unshaken.data.mapped import Sums

LARGE = 8 * 2**30
"""Bytes of pixels. More are not copied: neither to a device, nor from a file into memory."""


@dataclass(frozen=True, eq=False)
class Images:
    """All images of one split, decoded, of one size.

    pixels  (N C H W) uint8; 150 MB hold CIFAR-10, so a set lives where it is used, unless it is LARGE
    label   (N) int64 in 0..K-1, or None
    names   the K classes by label, empty without labels
    name    of the set, and
    split   of it, both for people and for results
    content a digest of the pixels where these are in a file that is too large to read for it; else empty
    wanted  where LARGE pixels are to be used, which stay where they are
    sums    the checksums of pixels that are in a file, where what is read of it is held against them
    """

    pixels: Int[Tensor, "N C H W"]
    label: Int[Tensor, "N"] | None = None
    names: tuple[str, ...] = ()
    name: str = "images"
    split: str = "train"
    content: str = ""
    wanted: torch.device | None = None
    sums: Sums | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise ValueError(
                f"images are uint8 of shape (N, C, H, W), not {self.pixels.dtype} of shape {tuple(self.pixels.shape)}"
            )
        if self.label is not None:
            self._check_labels(self.label)

    def _check_labels(self, label: Tensor) -> None:
        if label.shape != (len(self),) or label.dtype != torch.int64:
            raise ValueError(
                f"{len(self)} images need {len(self)} int64 labels, not {label.dtype} of shape {tuple(label.shape)}"
            )
        if len(label) and (label.min() < 0 or label.max() >= len(self.names)):
            raise ValueError(
                f"labels lie in 0..{len(self.names) - 1} ({len(self.names)} class names), "
                f"but here in {int(label.min())}..{int(label.max())}"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor | list[int]) -> Images:
        """A subset is an index: a slice, a list or an integer tensor. ValueError if it would be LARGE to copy."""
        label = None if self.label is None else self.label[index]
        content = ""
        if self.content and isinstance(index, slice):
            content = f"{self.content} {range(len(self))[index]}"
        elif self.content and len(index) * self.pixels[0].numel() > LARGE:
            raise ValueError(
                f"{len(index)} of the {len(self)} images of {self.name} would have to be copied into memory: keep none "
                "aside, or choose a smaller --data.size"
            )
        sums = None if self.sums is None else self.sums[index]
        return replace(self, pixels=self.pixels[index], label=label, content=content, sums=sums)

    def to(self, device: torch.device | str) -> Images:
        """For use there: as they are, or if they are LARGE batch by batch, which changes no number."""
        label = None if self.label is None else self.label.to(device)
        pixels = self.pixels if self.pixels.nbytes > LARGE else self.pixels.to(device)
        return replace(self, pixels=pixels, label=label, wanted=torch.device(device))

    @property
    def device(self) -> torch.device:
        """Where they are used."""
        return self.wanted or self.pixels.device

    def floats(self, index: Int[Tensor, "n"] | slice = slice(None)) -> Float[Tensor, "n C H W"]:
        """The chosen images as float32 in [0, 1], where they are used."""
        index = index.to(self.pixels.device) if isinstance(index, Tensor) else index
        pixels = self.pixels[index]
        if self.sums is not None:
            self.sums[index].check(pixels)
        return pixels.to(self.device).float() / 255

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that change with any pixel, label, class name or the order.

        Of a set with `content`, with the pixels that were decoded: what happens to its file later is not seen.
        """
        digest = blake2b(repr((tuple(self.pixels.shape), self.names)).encode(), digest_size=16)
        digest.update(self.content.encode() or self.pixels.cpu().contiguous().numpy())
        if self.label is not None:
            digest.update(self.label.cpu().contiguous().numpy())
        return digest.hexdigest()
