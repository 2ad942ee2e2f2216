"""Several image sets in one training: their names and weights, the joined set, and what an epoch sees of each"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from unshaken.base.checksum import checksum
from unshaken.base.rng import Key
from unshaken.base.types import Int
from unshaken.data.images import IN_MEMORY_LIMIT, Images
from unshaken.data.source import DataSource
from unshaken.nets.backbone import Backbone
from unshaken.storage.stored_pixels import JoinedPixels, StoredPixels
from unshaken.train.image_sets import load_images


@dataclass(frozen=True)
class Mixture:
    """Image sets one after the other, and how often an epoch sees each image of a set.

    sizes    the images of each set
    weights  1: every image once an epoch; 0.5: half of the images, others in each epoch; 2: every image twice
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each set that an epoch sees."""
        return tuple(max(1, round(weight * size)) for size, weight in zip(self.sizes, self.weights, strict=True))

    def __len__(self) -> int:
        return sum(self.counts)

    def rows(self, key: Key) -> Int[Tensor, "n"]:
        """Return the rows that an epoch sees, sorted by set. Of a set with a fraction they are drawn by the key."""
        rows, begin = [], 0
        for place, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            whole, left = divmod(count, size)
            drawn = torch.randperm(size, generator=(key / place).on("cpu"))[:left] if left else torch.arange(0)
            rows += [begin + torch.arange(size).repeat(whole), begin + drawn]
            begin += size
        return torch.cat(rows)


def extra_set(word: str) -> tuple[str, float]:
    """Read NAME or NAME:WEIGHT. ValueError if the weight is not above 0."""
    name, colon, number = word.rpartition(":")
    try:
        name, weight = (name, float(number)) if colon else (word, 1.0)
    except ValueError:  # a colon of the name's own: C:/photos
        name, weight = word, 1.0
    if not name or not (isfinite(weight) and weight > 0):
        raise ValueError(f"--extra takes NAME or NAME:WEIGHT with a weight above 0, such as photos:0.5, not {word!r}")
    return name, weight


def load_sets(source: DataSource, split: str, backbone: Backbone, extra: Sequence[str] = ()) -> list[Images]:
    """Load training images, and the train split of each extra set at the same size.

    ValueError if a set is named twice, or does not fit the network.
    """
    sets, names = [load_images(source, split, backbone)], [source.name]
    for name, _ in map(extra_set, extra):
        other = replace(source, name=name, size=source.size or backbone.image_size, limit=None, given=None)
        if other.name in names:
            raise ValueError(f"{other.name} is among the training images already: name it once")
        names.append(other.name)
        sets.append(load_images(other, "train", backbone))
    if len({images.pixels.shape[1:] for images in sets}) > 1:
        sides = ", ".join(f"{images.name} {images.pixels.shape[-1]}" for images in sets)
        raise ValueError(f"all image sets of a training have one size in pixels, and these differ ({sides})")
    return sets


def mixture_of(sets: Sequence[Images], extra: Sequence[str]) -> Mixture | None:
    """Return how the sets are mixed; None if an epoch sees every image once."""
    weights = (1.0, *(weight for _, weight in map(extra_set, extra)))
    return None if set(weights) == {1.0} else Mixture(tuple(map(len, sets)), weights)


def joined(sets: Sequence[Images]) -> Images:
    """Return the images of all sets, one set after the other. Several sets have no labels."""
    first, *others = sets
    if not others:
        return first
    parts = [images.pixels for images in sets]
    small = sum(pixels.nbytes for pixels in parts) <= IN_MEMORY_LIMIT
    in_memory = [pixels for pixels in parts if isinstance(pixels, Tensor)]
    pixels = torch.cat(in_memory) if small and len(in_memory) == len(parts) else StoredPixels(JoinedPixels(parts))
    return Images(
        pixels,
        name=" + ".join(images.name for images in sets),
        split=first.split,
        content=checksum([" ".join(images.digest for images in sets).encode()]),
        digests=torch.cat([images.image_digests for images in sets]),
        reason="it has extra image sets",
    )


def load_training(
    source: DataSource, split: str, backbone: Backbone, extra: Sequence[str] = ()
) -> tuple[Images, Mixture | None]:
    """Load the images of a training, with the extra sets, and how these are mixed."""
    sets = load_sets(source, split, backbone, extra)
    return joined(sets), mixture_of(sets, extra)
