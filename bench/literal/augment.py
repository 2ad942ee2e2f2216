"""SimCLR's transformations as published code makes them: torchvision's, on one PIL image at a time."""

from __future__ import annotations

from collections.abc import Callable

from PIL.Image import Image
from torch import Tensor

from unshaken.nets.torchvision_ops import declare_operators
from unshaken.transforms.color import BRIGHTNESS, CONTRAST, SATURATION
from unshaken.transforms.views import SimCLRDraws, SimCLRViews


def transform(like: SimCLRViews, side: int) -> Callable[[Image], Tensor]:
    """(3 side side) in [0, 1], drawn from the global generator, by strength 1 of ours."""
    declare_operators()
    from torchvision import transforms as t

    jitter = t.ColorJitter(like.jitter, like.jitter, like.jitter, like.hue)
    steps = [
        t.RandomResizedCrop(side, (like.min_area, 1.0), like.ratio, t.InterpolationMode(like.filter)),
        t.RandomHorizontalFlip(like.flip),
        t.RandomApply([jitter], like.p_jitter),
        t.RandomGrayscale(like.p_grey),
        t.ToTensor(),
    ]
    return t.Compose(steps)


def repeated(image: Image, like: SimCLRViews, how: SimCLRDraws, n: int) -> Tensor:
    """What the same functions make of an image by the n-th of our draws."""
    declare_operators()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as f

    box = [int(edge[n]) for edge in how.box]
    image = f.resized_crop(image, *box, [image.height, image.width], InterpolationMode(like.filter))
    image = f.hflip(image) if how.flipped[n] else image
    if how.jittered[n]:
        factor, shift, order, before = (part[n].tolist() for part in how.jitter)
        adjust = {BRIGHTNESS: f.adjust_brightness, CONTRAST: f.adjust_contrast, SATURATION: f.adjust_saturation}
        for kind in order[:before]:
            image = adjust[kind](image, factor[kind])
        image = f.adjust_hue(image, shift)
        for kind in order[before:]:
            image = adjust[kind](image, factor[kind])
    image = f.to_grayscale(image, 3) if how.greyed[n] else image
    return f.to_tensor(image)
