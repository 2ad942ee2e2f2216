"""Random views of images, such as SimCLR's, at any strength and batched on the device."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from unshaken.base.ranges import BelowOne, Count, Natural, NonNegative, Positive, Range, Share, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Bool, Float
from unshaken.transforms import color as colour
from unshaken.transforms import crop
from unshaken.transforms.affine import zoom_rotate_shift
from unshaken.transforms.base import Drawn, Transform, Views
from unshaken.transforms.fused_views import fused_for, fused_views


class SimCLRDraws(NamedTuple):
    """The random draws of one view of each of N images."""

    box: crop.Boxes
    flipped: Bool[Tensor, "N"]
    jittered: Bool[Tensor, "N"]
    jitter: colour.ColorJitter
    greyed: Bool[Tensor, "N"]


@dataclass(frozen=True)
@ranged
class SimCLRViews(Transform):
    """SimCLR's resized crop, flip, colour jitter and grey, at strength s as in DynACL (Luo et al., arXiv:2303.01289).

        area      uniform in (1 - (1 - min_area) s, 1) of the image, width / height log-uniform in `ratio`
        flip      with probability `flip`, at any strength
        jitter    with probability p_jitter s: blends by factors in 1 ± jitter s, hue by ± hue s turns, in any order
        grey      with probability p_grey s

    Strength 1 is SimCLR for small images (Chen et al., ICML 2020, arXiv:2002.05709: no blur), as in ACL (Jiang et al.,
    NeurIPS 2020, arXiv:2010.13337). The code of ACL and AIR resizes by filter="bicubic", that of DynACL by "bilinear".
    """

    count: Count = 2
    """Number of views of each image."""
    filter: crop.Filter = "bicubic"
    """The filter that resizes a crop."""
    min_area: Share = 0.1
    """Smallest area of a crop, as a share of the image, at strength 1."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a crop."""
    flip: Unit = 0.5
    """Probability of a horizontal flip."""
    jitter: Unit = 0.4
    """Largest change of brightness, contrast and saturation, at strength 1."""
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    """Largest shift of the hue in turns, at strength 1."""
    p_jitter: Unit = 0.8
    """Probability of the colour jitter, at strength 1."""
    p_grey: Unit = 0.2
    """Probability of a grey view, at strength 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        chances = (self.flip, self.p_jitter, self.p_grey)
        if not (0 < self.min_area <= 1 and 0 < self.ratio[0] <= self.ratio[1] and all(0 <= p <= 1 for p in chances)):
            raise ValueError(
                "views have a min_area in (0, 1], a ratio of two positive numbers, the smaller first, and flip, "
                f"p_jitter and p_grey in [0, 1]; not {self.min_area}, {self.ratio} and {chances}"
            )

    def sample(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> SimCLRDraws:
        """Draw each sample independently; only the number, size and device of the images count."""
        count, _, height, width = image.shape
        area = (1 - (1 - self.min_area) * strength, 1.0)
        return SimCLRDraws(
            crop.random_boxes(count, (height, width), area, self.ratio, (key / "crop").on(image.device)),
            _bernoulli(self.flip, image, key / "flip"),
            _bernoulli(self.p_jitter * strength, image, key / "jittered"),
            colour.random_color_jitter(
                count, self.jitter * strength, self.hue * strength, (key / "jitter").on(image.device)
            ),
            _bernoulli(self.p_grey * strength, image, key / "grey"),
        )

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        box, flipped, jittered, jitter, greyed = self.sample(image, strength, key)
        size = (image.shape[2], image.shape[3])
        rows, columns = crop.windows(box, size, size, self.filter, flipped)
        return *rows, *columns, *colour.passes(jitter, jittered, greyed, image.shape[1])

    def apply_all(self, target: Float[Tensor, "N C H W"], image: Float[Tensor, "N C H W"], drawn: list[Tensor]) -> None:
        if fused_for(image) and type(self).apply is SimCLRViews.apply:  # a subclass may do something else
            fused_views(target, image, *drawn)
        else:
            super().apply_all(target, image, drawn)

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        x = crop.resampled(image, crop.Taps(*drawn[:2]), crop.Taps(*drawn[2:4]))
        return colour.apply_color(x, colour.Passes(*drawn[4:]))


@dataclass(frozen=True)
@ranged
class DigitViews(Transform):
    """Views of small grey digits, without flips and colours, which would change their meaning.

    At strength s, a square window of area in (1 - crop s, 1) is enlarged to the full image, rotated by ± degrees s and
    shifted by ± shift s of a side, in one resampling with 0 around the image. Then brightness and contrast change by
    factors in 1 ± jitter s, and Gaussian noise of deviation noise s is added.
    """

    count: Count = 2
    """Number of views of each image."""
    crop: BelowOne = 0.4
    """Largest share of the area that a crop leaves out, at strength 1."""
    shift: Unit = 0.1
    """Largest shift as a share of a side, at strength 1."""
    degrees: Annotated[float, Range(0, 180)] = 15.0
    """Largest rotation, at strength 1."""
    jitter: Unit = 0.4
    """Largest change of brightness and contrast, at strength 1."""
    noise: NonNegative = 0.0
    """Standard deviation of the noise in units of a [0, 1] pixel, at strength 1."""

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        rng = (key / "window").on(image.device)
        u = torch.rand((6, len(image)), generator=rng, device=image.device)
        angle = radians(self.degrees) * strength * (2 * u[0] - 1)
        zoom = (1 - self.crop * strength * u[1]).rsqrt()
        # the enlarged image overhangs by zoom - 1 of a side, so a window within it may move by that
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
    """The zero-padded image, cropped at random and flipped, at any strength, as for fine-tuning. Digits need flip=0."""

    count: Count = 1
    """Number of views of each image."""
    padding: Natural = 4
    """Width of the zero padding on each side, in pixels."""
    flip: Unit = 0.5
    """Probability of a horizontal flip."""

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        position = torch.rand((2, len(image)), generator=(key / "crop").on(image.device), device=image.device)
        top, left = (position * (2 * self.padding + 1)).long()
        return top, left, _bernoulli(self.flip, image, key / "flip")

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        top, left, flipped = drawn
        return crop.flip(crop.padded_crop(image, top, left, self.padding), flipped)


@dataclass(frozen=True)
@ranged
class ResizedCrop(Transform):
    """A random crop, resized to the size of the image and flipped: the augmentation of networks for ImageNet.

    At strength s the area of the crop is uniform in (1 - (1 - min_area) s, 1), its width / height log-uniform in
    `ratio`.
    """

    count: Count = 1
    """Number of views of each image."""
    filter: crop.Filter = "bilinear"
    """The filter that resizes a crop."""
    min_area: Share = 0.08
    """Smallest area of a crop, as a share of the image, at strength 1."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a crop."""
    flip: Unit = 0.5
    """Probability of a horizontal flip."""

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        area, size = (1 - (1 - self.min_area) * strength, 1.0), (image.shape[2], image.shape[3])
        boxes = crop.random_boxes(len(image), size, area, self.ratio, (key / "crop").on(image.device))
        rows, columns = crop.windows(boxes, size, size, self.filter, _bernoulli(self.flip, image, key / "flip"))
        return *rows, *columns

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        return crop.resampled(image, crop.Taps(*drawn[:2]), crop.Taps(*drawn[2:]))


@dataclass(frozen=True)
@ranged
class Identity(Transform):
    """The unchanged image, at any strength."""

    count: Count = 1
    """Number of views of each image."""

    def draw(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Drawn:
        return ()

    def apply(self, image: Float[Tensor, "N C H W"], *drawn: Tensor) -> Float[Tensor, "N C H W"]:
        return image


AnyTransform = Annotated[Transform, SimCLRViews | DigitViews | CropFlip | ResizedCrop | Identity]
"""A transformation. On the command line it is one of these, by name."""


@dataclass(frozen=True)
class Concat(Views):
    """Views of one kind, followed by views of another."""

    first: AnyTransform = SimCLRViews()
    """The transformation of the first views."""
    then: AnyTransform = CropFlip()
    """The transformation of the other views."""

    by_rows: ClassVar = True

    @property
    def count(self) -> int:
        return self.first.count + self.then.count

    def __call__(self, image: Float[Tensor, "N C H W"], strength: float, key: Key) -> Float[Tensor, "V N C H W"]:
        return torch.cat([self.first(image, strength, key / "first"), self.then(image, strength, key / "then")])


AnyViews = Annotated[Views, SimCLRViews | DigitViews | CropFlip | ResizedCrop | Identity | Concat]
"""Views of an image. On the command line they are one of these, by name."""


def _bernoulli(probability: float, image: Tensor, key: Key) -> Bool[Tensor, "N"]:
    """Return True for each sample with the given probability."""
    return torch.rand(len(image), generator=key.on(image.device), device=image.device) < probability
