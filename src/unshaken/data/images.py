"""Images: one split of a set as a uint8 tensor, with labels, class names and digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unshaken.base.checksum import checksum
from unshaken.base.python_words import in_python
from unshaken.base.types import Float, Int, UInt8
from unshaken.data.arrays import labels_of, pixels_of
from unshaken.data.convert import convert
from unshaken.data.image_digests import image_digests
from unshaken.storage.stored_pixels import StoredPixels, to_device

IN_MEMORY_LIMIT = 8 * 2**30
"""Bytes of pixels. A larger set is not copied as a whole: neither to a device nor from a file into memory."""


def stays_in_file(pixels: StoredPixels) -> bool:
    """Return whether images in a file are too many for memory, or are to be read from it whenever they are used."""
    return pixels.source.streams or pixels.nbytes > IN_MEMORY_LIMIT


@dataclass(frozen=True, eq=False)
class Images:
    """All images of one split, decoded to the same size.

    pixels  (N C H W) uint8. A set is moved to the device as a whole (CIFAR-10 takes 150 MB), unless it is larger than
            IN_MEMORY_LIMIT, or stays in a file
    label   (N) int64 in 0..K-1, or None
    names   the K class names in the order of the labels; empty without labels
    name    the name of the set, for messages and results
    split   the name of the split, for messages and results
    content a digest of the pixels, for a set that is too large to be read again for a digest; else empty
    wanted  the device on which the images are used, if it is not the one that the pixels are on
    digests (N) int64, the digest of each image as it was stored; None: they are computed from `pixels`
    files   the file name of each image; empty if it is not known
    reason  why a user's own set has no labels, for messages
    """

    pixels: UInt8[Tensor, "N C H W"] | StoredPixels
    label: Int[Tensor, "N"] | None = None
    names: tuple[str, ...] = ()
    name: str = "images"
    split: str = "train"
    content: str = ""
    wanted: torch.device | None = None
    digests: Int[Tensor, "N"] | None = None
    files: Sequence[str] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, (Tensor, StoredPixels)) or self.pixels.dtype != torch.uint8:
            object.__setattr__(self, "pixels", pixels_of(self.pixels))
        if self.label is not None and (not isinstance(self.label, Tensor) or self.label.dtype != torch.int64):
            object.__setattr__(self, "label", labels_of(self.label, len(self.pixels)))
        if self.pixels.ndim != 4:
            raise ValueError(f"images must have the shape (N, C, H, W), not {tuple(self.pixels.shape)}")
        if self.label is not None:
            self._check_labels(self.label)

    def _check_labels(self, label: Tensor) -> None:
        if label.shape != (len(self),):
            raise ValueError(f"{len(self)} images need {len(self)} labels, not labels of shape {tuple(label.shape)}")
        if len(label) and (label.min() < 0 or label.max() >= len(self.names)):
            raise ValueError(
                f"labels must lie in 0..{len(self.names) - 1} ({len(self.names)} class names), "
                f"and these lie in {int(label.min())}..{int(label.max())}"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor | list[int]) -> Images:
        """Select a subset by a slice, a list or an integer tensor. A large subset of images in a file stays there."""
        label = None if self.label is None else self.label[index]
        digests, files = self.digests, self.files
        if digests is not None or files:
            rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
            digests = None if digests is None else digests[rows]
            files = tuple(files[row] for row in rows.tolist()) if files else ()
        pixels, content = self.pixels, ""
        if self.content and isinstance(index, slice):
            content = f"{self.content} {range(len(self))[index]}"
            pixels = pixels.select(index) if isinstance(pixels, StoredPixels) else pixels[index]
        elif isinstance(pixels, StoredPixels) and stays_in_file(selected := pixels.select(index)):
            content, pixels = f"{self.content} rows {checksum([selected.rows.tobytes()])}", selected
        else:
            pixels = pixels[index]
        return replace(self, pixels=pixels, label=label, content=content, digests=digests, files=files)

    def to(self, device: torch.device | str) -> Images:
        """Move the set to a device. Above IN_MEMORY_LIMIT each batch is moved on use, with the same results."""
        device, pixels = torch.device(device), self.pixels
        label = None if self.label is None else self.label.to(device)
        if isinstance(pixels, StoredPixels) and (device.type == "cpu" or stays_in_file(pixels)):
            pixels = pixels.for_device(device)
        elif pixels.nbytes <= IN_MEMORY_LIMIT:
            pixels = pixels.to(device)
        return replace(self, pixels=pixels, label=label, wanted=device)

    @property
    def in_file(self) -> bool:
        """True if images are read from a file when they are used."""
        return isinstance(self.pixels, StoredPixels)

    def expect(self, batches: Sequence[Int[Tensor, "_"]]) -> None:
        """Say which images are used next, batch by batch: those in a file are then read ahead of their use."""
        if isinstance(self.pixels, StoredPixels):
            self.pixels.expect(batches)

    @classmethod
    @in_python
    def of(
        cls,
        x: Any,
        y: Any = None,
        names: Sequence[str] = (),
        name: str = "images",
        split: str = "test",
        size: int | None = None,
    ) -> Images:
        """Make a set from arrays, tensors, a torch Dataset, a Hugging Face data set, Pillow images or a list of files.

        x      an array or tensor, (N C H W), (N H W C) with 1 or 3 channels, or (N H W): integers in 0..255, or floats
               in [0, 1]. Floats are rounded to the nearest of the 256 levels; if that changes them, a line on stderr
               says by how much. Or a set with a length, whose items are images, (image, label), or dictionaries
        y      (N) class numbers, of any integer type; None for the labels of a set's items, or no labels
        names  the class names; by default those that the set knows, or the class numbers
        size   resize the shorter side to this and cut out the centre; by default all images keep their size
        """
        found = convert(x, y, size)
        label = found.label
        names = tuple(names) or (found.names if label is not None else ())
        if label is not None and not names and label.numel():
            if int(label.min()) < 0:
                raise ValueError(f"labels are counted from 0, and one is {int(label.min())}")
            names = tuple(str(k) for k in range(int(label.max()) + 1))
        return cls(found.pixels, label, names, name, split, digests=found.digests, files=found.files)

    @property
    def device(self) -> torch.device:
        """The device on which the images are used."""
        return self.wanted or self.pixels.device

    def floats(self, index: Int[Tensor, "n"] | slice = slice(None)) -> Float[Tensor, "n C H W"]:
        """Return the selected images as float32 in [0, 1], on the device on which they are used."""
        index = index.to(self.pixels.device) if isinstance(index, Tensor) else index
        return to_device(self.pixels[index], self.device).float() / 255

    @cached_property
    def image_digests(self) -> Int[Tensor, "N"]:
        """A digest of 64 bits for each image, which does not depend on the size to which the set was resized."""
        if self.digests is not None:
            return self.digests
        return torch.from_numpy(image_digests(self.pixels.cpu().numpy()).view(np.int64))

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that change with any pixel, any label, any class name, or the order of the images.

        For a set with `content`, this is the digest of the pixels when they were decoded; the file is not read again.
        """
        digest = blake2b(repr((tuple(self.pixels.shape), self.names)).encode(), digest_size=16)
        digest.update(self.content.encode() or self.pixels.cpu().contiguous().numpy())
        if self.label is not None:
            digest.update(self.label.cpu().contiguous().numpy())
        return digest.hexdigest()
