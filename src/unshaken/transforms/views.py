"""SimCLR's transformations at any strength, batched on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import radians
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from unshaken.base.ranges import BelowOne, Count, Natural, NonNegative, Positive, Range, Share, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float
from unshaken.transforms import color as colour
from unshaken.transforms import crop
from unshaken.transforms.affine import zoom_rotate_shift

CACHED_PIXELS = 2**16
"""Pixels a CPU transforms at a time: 256 kB a plane, so that what one operation writes the next finds in the cache."""

Drawn = tuple[Tensor, ...]
"""What chance decided, worked out as far as it goes without a pixel; one row a sample."""


class Views(ABC):
    """Images to `count` views of each."""

    count: int

    @abstractmethod
    def __call__(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Float[Tensor, "V N C H W"]:
        """Views of float32 images in [0, 1]; `strength` in [0, 1] says how far they may leave the image."""


class Transform(Views):
    """Views of one kind: what is decided first (`draw`), then what is done to the pixels (`apply`)."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"a transform gives at least 1 view, not {self.count}")

    def __call__(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Float[Tensor, "V N C H W"]:
        """Every view of every sample is drawn on its own; what a sample becomes does not depend on the others."""
        if not 0 <= strength <= 1:
            raise ValueError(f"a strength lies in [0, 1], not {strength}")
        if image.ndim != 4 or image.dtype != torch.float32:
            raise ValueError(f"images are float32 (N, C, H, W), not {image.dtype} of shape {tuple(image.shape)}")
        on_cpu = image.device.type == "cpu"
        chunk = max(1, CACHED_PIXELS // image.shape[2:].numel() if on_cpu else len(image))
        views = image.new_empty((self.count, *image.shape))
        for v, view in enumerate(views):
            drawn = self.draw(image, strength, key / v)
            for target, *part in zip(*(rows.split(chunk) for rows in (view, image, *drawn)), strict=True):
                target.copy_(self.apply(*part))
        return views

    @abstractmethod
    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        """For one view of each image, all of them at once: small work, that a CPU takes longer to be told than to do.

        Only the images' shape and device matter.
        """

    @abstractmethod
    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        """One view of each image, each sample by its own row of what was drawn."""


class Chance(NamedTuple):
    """What chance decided about one view of each of N images."""

    box: crop.Boxes
    flipped: Tensor
    jittered: Tensor
    jitter: colour.ColorJitter
    greyed: Tensor


@dataclass(frozen=True)
@ranged
class SimCLRViews(Transform):
    """Resized crop, flip, colour jitter and grey, at strength s as in DynACL (Luo et al., ICLR 2023, arXiv:2303.01289).

        area      uniform in (1 - (1 - min_area) s, 1) of the image, width / height log-uniform in `ratio`
        flip      with probability `flip`, at any strength
        jitter    with probability p_jitter s: blends by factors in 1 ± jitter s, hue by ± hue s turns, in any order
        grey      with probability p_grey s

    Strength 1 is SimCLR for small images (Chen et al., ICML 2020, arXiv:2002.05709: no blur), as in ACL (Jiang et
    al., NeurIPS 2020, arXiv:2010.13337). ACL's and AIR's code resizes bicubically, DynACL's with filter="bilinear".
    """

    count: Count = 2
    filter: crop.Filter = "bicubic"
    min_area: Share = 0.1
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Unit = 0.5
    jitter: Unit = 0.4
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    p_jitter: Unit = 0.8
    p_grey: Unit = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        chances = (self.flip, self.p_jitter, self.p_grey)
        if not (0 < self.min_area <= 1 and 0 < self.ratio[0] <= self.ratio[1] and all(0 <= p <= 1 for p in chances)):
            raise ValueError(
                "views have a min_area in (0, 1], a ratio of two positive numbers, the smaller first, and flip, "
                f"p_jitter and p_grey in [0, 1]; not {self.min_area}, {self.ratio} and {chances}"
            )

    def chance(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Chance:
        """Each sample's on its own; only the images' number, size and device matter."""
        count, _, height, width = image.shape
        area = (1 - (1 - self.min_area) * strength, 1.0)
        return Chance(
            crop.random_boxes(count, (height, width), area, self.ratio, (key / "crop").on(image.device)),
            _chosen(self.flip, image, key / "flip"),
            _chosen(self.p_jitter * strength, image, key / "jittered"),
            colour.random_color_jitter(
                count, self.jitter * strength, self.hue * strength, (key / "jitter").on(image.device)
            ),
            _chosen(self.p_grey * strength, image, key / "grey"),
        )

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        box, flipped, jittered, jitter, greyed = self.chance(image, strength, key)
        size = (image.shape[2], image.shape[3])
        rows, columns = crop.windows(box, size, size, self.filter, flipped)
        return *rows, *columns, *colour.passes(jitter, jittered, greyed, image.shape[1])

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        x = crop.resampled(image, crop.Taps(*drawn[:2]), crop.Taps(*drawn[2:4]))
        return colour.apply_color(x, colour.Passes(*drawn[4:]))


@dataclass(frozen=True)
@ranged
class DigitViews(Transform):
    """Views of small grey digits, which a mirror or a colour would make into something else.

    At strength s: a square window of area in (1 - crop s, 1) somewhere in the image is enlarged to the whole, turned
    by ± degrees s and moved by ± shift s of a side, in one resampling with 0 around the image; then brightness and
    contrast by factors in 1 ± jitter s, and Gaussian noise of deviation noise s.
    """

    count: Count = 2
    crop: BelowOne = 0.4
    shift: Unit = 0.1
    degrees: Annotated[float, Range(0, 180)] = 15.0
    jitter: Unit = 0.4
    noise: NonNegative = 0.0

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        rng = (key / "window").on(image.device)
        u = torch.rand((6, len(image)), generator=rng, device=image.device)
        angle = radians(self.degrees) * strength * (2 * u[0] - 1)
        zoom = (1 - self.crop * strength * u[1]).rsqrt()
        # enlarged by zoom, the image overhangs by zoom - 1 of a side: so far a window that stays inside may lie
        down, right = (zoom - 1) * (u[2:4] - 0.5) + self.shift * strength * (2 * u[4:6] - 1)
        jitter = colour.random_color_jitter(len(image), self.jitter * strength, 0, (key / "jitter").on(image.device))
        noise = image.new_zeros((len(image), 1, 1, 1))
        if self.noise:
            rng = (key / "noise").on(image.device)
            noise = self.noise * strength * torch.randn(image.shape, generator=rng, device=image.device)
        return angle, zoom, down, right, jitter.factor, noise

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        angle, zoom, down, right, factor, noise = drawn
        height, width = image.shape[2:]
        x = zoom_rotate_shift(image, angle, zoom, height * down, width * right)
        x = colour.brightness(x, factor[:, colour.BRIGHTNESS])
        x = colour.contrast(x, factor[:, colour.CONTRAST])
        return (x + noise).clamp_(0, 1)


@dataclass(frozen=True)
@ranged
class CropFlip(Transform):
    """The zero-padded image cut back at random, and flipped: what fine-tuning sees, at any strength. Digits: flip=0."""

    count: Count = 1
    padding: Natural = 4
    flip: Unit = 0.5

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        place = torch.rand((2, len(image)), generator=(key / "crop").on(image.device), device=image.device)
        top, left = (place * (2 * self.padding + 1)).long()
        return top, left, _chosen(self.flip, image, key / "flip")

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        top, left, flipped = drawn
        return crop.flip(crop.padded_crop(image, top, left, self.padding), flipped)


@dataclass(frozen=True)
@ranged
class ResizedCrop(Transform):
    """A part of the image enlarged to the whole, and flipped: what networks for ImageNet are trained on.

    At strength s the part's area is uniform in (1 - (1 - min_area) s, 1), its width / height log-uniform in `ratio`.
    """

    count: Count = 1
    filter: crop.Filter = "bilinear"
    min_area: Share = 0.08
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: Unit = 0.5

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        area, size = (1 - (1 - self.min_area) * strength, 1.0), (image.shape[2], image.shape[3])
        boxes = crop.random_boxes(len(image), size, area, self.ratio, (key / "crop").on(image.device))
        rows, columns = crop.windows(boxes, size, size, self.filter, _chosen(self.flip, image, key / "flip"))
        return *rows, *columns

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        return crop.resampled(image, crop.Taps(*drawn[:2]), crop.Taps(*drawn[2:]))


@dataclass(frozen=True)
@ranged
class Identity(Transform):
    """The image as it is, at any strength."""

    count: Count = 1

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        return ()

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        return image


AnyTransform = Annotated[Transform, SimCLRViews | DigitViews | CropFlip | ResizedCrop | Identity]
"""A transformation; by name from a command line, one of these."""


@dataclass(frozen=True)
class Concat(Views):
    """Views of one kind, and after them views of another."""

    first: AnyTransform = SimCLRViews()
    then: AnyTransform = CropFlip()

    @property
    def count(self) -> int:
        return self.first.count + self.then.count

    def __call__(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Float[Tensor, "V N C H W"]:
        return torch.cat([self.first(image, strength, key / "first"), self.then(image, strength, key / "then")])


AnyViews = Annotated[Views, SimCLRViews | DigitViews | CropFlip | ResizedCrop | Identity | Concat]
"""Views of an image; by name from a command line, one of these."""


def _chosen(probability: float, image: Tensor, key: Key) -> Tensor:
    """True for each sample with the given probability."""
    return torch.rand(len(image), generator=key.on(image.device), device=image.device) < probability
