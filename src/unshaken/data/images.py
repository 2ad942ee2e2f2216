"""A set of images: uint8 on the device, labels if there are any, split, content digest, indexing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unshaken.base.types import Float, Int, UInt8
from unshaken.data.arrays import labels_of, pixels_of
from unshaken.data.image_digests import image_digests
from unshaken.storage.memmap import Sums

IN_MEMORY_LIMIT = 8 * 2**30
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
    digests (N) int64, of each image as it was stored; None: of its pixels as they are
    files   what each image is called; empty where nobody knows
    reason  why a set of somebody's own has no labels, for messages
    """

    pixels: UInt8[Tensor, "N C H W"]
    label: Int[Tensor, "N"] | None = None
    names: tuple[str, ...] = ()
    name: str = "images"
    split: str = "train"
    content: str = ""
    wanted: torch.device | None = None
    sums: Sums | None = None
    digests: Int[Tensor, "N"] | None = None
    files: Sequence[str] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Tensor) or self.pixels.dtype != torch.uint8:
            object.__setattr__(self, "pixels", pixels_of(self.pixels))
        if self.label is not None and (not isinstance(self.label, Tensor) or self.label.dtype != torch.int64):
            object.__setattr__(self, "label", labels_of(self.label, len(self.pixels)))
        if self.pixels.ndim != 4:
            raise ValueError(f"images have the shape (N, C, H, W), not {tuple(self.pixels.shape)}")
        if self.label is not None:
            self._check_labels(self.label)

    def _check_labels(self, label: Tensor) -> None:
        if label.shape != (len(self),):
            raise ValueError(f"{len(self)} images need {len(self)} labels, not some of shape {tuple(label.shape)}")
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
        digests, files = self.digests, self.files
        if digests is not None or files:
            rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
            digests = None if digests is None else digests[rows]
            files = tuple(files[row] for row in rows.tolist()) if files else ()
        content = ""
        if self.content and isinstance(index, slice):
            content = f"{self.content} {range(len(self))[index]}"
        elif self.content and len(index) * self.pixels[0].numel() > IN_MEMORY_LIMIT:  # pyright: ignore[reportArgumentType]
            raise ValueError(
                f"{len(index)} of the {len(self)} images of {self.name} would have to be copied into memory: keep none "  # pyright: ignore[reportArgumentType]
                "aside, or choose a smaller --data.size"
            )
        known = {"content": content, "digests": digests, "files": files}
        sums = None if self.sums is None else self.sums[index]
        return replace(self, pixels=self.pixels[index], label=label, sums=sums, **known)

    def to(self, device: torch.device | str) -> Images:
        """For use there: as they are, or if they are LARGE batch by batch, which changes no number."""
        label = None if self.label is None else self.label.to(device)
        pixels = self.pixels if self.pixels.nbytes > IN_MEMORY_LIMIT else self.pixels.to(device)
        return replace(self, pixels=pixels, label=label, wanted=torch.device(device))

    @classmethod
    def of(cls, x: Any, y: Any = None, names: Sequence[str] = (), name: str = "images", split: str = "test") -> Images:
        """Make a set from images and labels as arrays, tensors or lists.

        x      (N C H W), (N H W C) with 1 or 3 channels, or (N H W); bytes 0..255, or floats in [0, 1], which are
               rounded to the nearest of the 256 levels: a line on stderr says by how much, if it is more than rounding
        y      (N) class numbers, of any type of whole numbers; None where there are none
        names  the classes; by default their numbers
        """
        pixels = pixels_of(x)
        label = None if y is None else labels_of(y, len(pixels))
        if label is not None and not names and label.numel():
            if int(label.min()) < 0:
                raise ValueError(f"labels are counted from 0, and here is {int(label.min())}")
            names = tuple(str(k) for k in range(int(label.max()) + 1))
        return cls(pixels, label, tuple(names), name, split)

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
    def image_digests(self) -> Int[Tensor, "N"]:
        """64 bits of each image, by which it is known again at any size."""
        if self.digests is not None:
            return self.digests
        return torch.from_numpy(image_digests(self.pixels.cpu().numpy()).view(np.int64))

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
