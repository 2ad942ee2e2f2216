"""The order of an epoch, and the batch of an instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.profiler import record_function

from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Clock, Constant
from unshaken.base.types import Batch, Float, Int
from unshaken.data.images import Images
from unshaken.transforms.views import AnyViews


@dataclass(frozen=True)
class Position:
    """Where in a training run: the epoch, the batch within it, and the updates made so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True, eq=False)
class BatchStream:
    """Batches as a function of place: any of them can be made again without those before it.

    images    on the device where they are used, or LARGE
    views     what is done to them, at strength(clock)
    batch     images a step, the last of an epoch may be smaller
    index     which of the images an epoch sees; None: all
    label     what is learned from: a label or a row of them an image; None where nothing is
    side      of what a method sees, as a part of the images' own side; one for each epoch
    replays   steps in succession that see one batch, the very same views; an epoch has as many steps, and fewer images
    """

    images: Images
    views: AnyViews
    strength: AnySchedule
    batch_size: int
    epochs: int
    key: Key
    label: Int[Tensor, "N ..."] | None = None
    index: Int[Tensor, "n"] | None = None
    side: AnySchedule = Constant(1.0)
    replays: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(f"training takes epochs ≥ 1 and a batch ≥ 2, not {self.epochs} and {self.batch_size}")
        if self.count < 2:
            raise ValueError(f"{self.count} image(s) are too few to learn from; at least 2 are needed")

    def __len__(self) -> int:
        """Batches an epoch. A single image left over joins the batch before it: alone it has no variance."""
        full, left = divmod(self.count, self.batch_size)
        return full + (left > 1) if full else 1

    @property
    def count(self) -> int:
        """Images an epoch."""
        return len(self.images) if self.index is None else len(self.index)

    def to(self, device: torch.device) -> BatchStream:
        label = None if self.label is None else self.label.to(device)
        return replace(self, images=self.images.to(device), label=label)

    def order(self, epoch: int) -> Int[Tensor, "N"]:
        """A permutation of an epoch's images; drawn on the CPU, so that it is the same on every device."""
        order = torch.randperm(self.count, generator=(self.key / "order" / epoch).on("cpu"))
        return order if self.index is None else self.index[order]

    def clock(self, place: Position) -> Clock:
        return Clock(place.step, place.epoch, place.epoch + (place.batch + 1) / len(self), self.epochs)

    def began(self, place: Position) -> float:
        """Epochs elapsed before the step of a place."""
        return place.epoch + place.batch / len(self)

    def after(self, place: Position) -> Iterator[tuple[Position, Position, Batch]]:
        """From a place that `rests` to the end: each place, the one that follows it, and its batch."""
        assert self.rests(place), f"the views of {place} are those of a step before it"
        while place.epoch < self.epochs:
            batches = self.batches(place.epoch, self.images.pixels.device)
            while place.batch < len(self):
                onward = Position(place.epoch, place.batch + 1, place.step + 1)
                onward = onward if onward.batch < len(self) else Position(place.epoch + 1, 0, place.step + 1)
                if self.rests(place):
                    strength = self.strength(self.clock(place))
                    batch = self.seen(batches[place.batch], strength, self.chance(place), self.part(place.epoch))
                yield place, onward, batch
                place = onward
                if place.batch == 0:
                    break

    def rests(self, place: Position) -> bool:
        """Whether a place has views of its own, and with them nothing to know of the steps before it."""
        return place.batch % self.replays == 0

    def part(self, epoch: int) -> float:
        """Of the images' side, which a method sees."""
        return self.side(all_through(epoch, self.epochs))

    def batches(self, epoch: int, device: torch.device | str = "cpu") -> tuple[Int[Tensor, "b"], ...]:
        """An epoch's images, batch by batch; with replays it sees those of places that rest.

        They are brought to the device together, which is waited for.
        """
        order, full = self.order(epoch).to(device), self.batch_size * (len(self) - 1)
        return (*order[:full].split(self.batch_size), order[full:]) if full else (order,)

    def chance(self, place: Position) -> Key:
        """Of a batch's views."""
        return self.key / "views" / place.step

    def seen(self, index: Int[Tensor, "b"], strength: float, key: Key, side: float = 1.0) -> Batch:
        """Images as a method sees them."""
        image, index = self.images.floats(index), index.to(self.images.device)
        with record_function("views"):
            views = self.views(image, strength, key)
        if (width := pixels(side, image.shape[-1])) != image.shape[-1]:
            image, views = shrunken(image, width), shrunken(views, width)
        return Batch(views, image, None if self.label is None else self.label[index], index)


def all_through(epoch: int, epochs: int) -> Clock:
    """The time of what does not change within an epoch: its end."""
    return Clock(0, epoch, epoch + 1, epochs)


def pixels(part: float, side: int) -> int:
    """A part of a side, in whole pixels."""
    return max(1, round(part * side))


def shrunken(x: Float[Tensor, "... N C H W"], side: int) -> Float[Tensor, "... N C h w"]:
    """The same square images with fewer pixels, each a weighted mean of those that it covers."""
    small = interpolate(x.flatten(0, -4), (side, side), mode="bilinear", antialias=True)
    return small.clamp_(0, 1).unflatten(0, x.shape[:-3])  # means, but for rounding
