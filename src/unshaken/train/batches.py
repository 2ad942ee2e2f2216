"""The order of images in an epoch, and the batch at any position of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.profiler import record_function

from unshaken.base.distributed import processes
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Clock, Constant
from unshaken.base.shared_batch import Rows, sharing
from unshaken.base.types import Batch, Float, Int
from unshaken.data.images import Images
from unshaken.storage.stored_pixels import AHEAD
from unshaken.train.mixture import Mixture
from unshaken.transforms.views import AnyViews


@dataclass(frozen=True)
class Position:
    """A position in a training run: the epoch, the batch within it, and the number of updates before it."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass(frozen=True, eq=False)
class BatchStream:
    """Batches as a function of position: any batch can be made again without those before it.

    images      the images, on the device where they are used, or in a file from which they are read
    views       the augmentation
    strength    the strength of the augmentation over time
    batch_size  images per step; the last batch of an epoch may be smaller
    index       the images that an epoch uses; None: all
    label       one label per image, or a row of labels per image; None if the method uses none
    side        the side of views and images in each epoch, as a fraction of the images' own side
    mixture     how often an epoch sees each image of several sets; None: once
    replays     the number of successive steps with the same views; an epoch keeps its number of steps
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
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError(f"training takes epochs ≥ 1 and a batch ≥ 2, not {self.epochs} and {self.batch_size}")
        if self.count < 2:
            raise ValueError(f"{self.count} image(s) are too few to learn from; at least 2 are needed")

    def __len__(self) -> int:
        """Batches per epoch. A single remaining image joins the batch before it, since alone it has no variance."""
        full, left = divmod(self.count, self.batch_size)
        return full + (left > 1) if full else 1

    @property
    def count(self) -> int:
        """Images per epoch."""
        if self.index is not None:
            return len(self.index)
        return len(self.images if self.mixture is None else self.mixture)

    def to(self, device: torch.device) -> BatchStream:
        label = None if self.label is None else self.label.to(device)
        return replace(self, images=self.images.to(device), label=label)

    def order(self, epoch: int) -> Int[Tensor, "N"]:
        """Return the images' order in an epoch; it is drawn on the CPU, so it is the same for every device."""
        order = torch.randperm(self.count, generator=(self.key / "order" / epoch).on("cpu"))
        if self.mixture is not None and self.index is None:
            return self.mixture.rows(self.key / "mixture" / epoch)[order]
        return order if self.index is None else self.index[order]

    def clock(self, position: Position) -> Clock:
        return Clock(position.step, position.epoch, position.epoch + (position.batch + 1) / len(self), self.epochs)

    def elapsed(self, position: Position) -> float:
        """Return the epochs elapsed before the step at a position."""
        return position.epoch + position.batch / len(self)

    def after(self, position: Position) -> Iterator[tuple[Position, Position, Batch]]:
        """Yield each position from this one to the end, with the next position and the batch.

        The first position must have views of its own: a replay needs the batch before it.
        """
        assert self.has_own_views(position), f"the views of {position} are those of a step before it"
        while position.epoch < self.epochs:
            batches = self.batches(position.epoch, self.images.pixels.device)
            while position.batch < len(self):
                onward = Position(position.epoch, position.batch + 1, position.step + 1)
                onward = onward if onward.batch < len(self) else Position(position.epoch + 1, 0, position.step + 1)
                if self.has_own_views(position):
                    self.images.expect([self._read_here(index) for index in self.coming(position, batches)])
                    how = (self.strength(self.clock(position)), self.views_key(position))
                    index = batches[position.batch]
                    rows = processes().rows(len(index))
                    batch = self.make_batch(index, *how, self.side_fraction(position.epoch), rows)
                yield position, onward, batch
                position = onward
                if position.batch == 0:
                    break

    def coming(self, position: Position, batches: tuple[Int[Tensor, "_"], ...]) -> list[Int[Tensor, "_"]]:
        """Return the images of the next batches with views of their own; `batches` are those of the position's epoch.

        They may be read ahead, because they depend on the position alone.
        """
        found = [*batches[position.batch :: self.replays][:AHEAD]]
        if len(found) < AHEAD and position.epoch + 1 < self.epochs and self.images.in_file:
            found += self.batches(position.epoch + 1)[:: self.replays][: AHEAD - len(found)]
        return found

    def _read_here(self, index: Int[Tensor, "b"]) -> Int[Tensor, "n"]:
        """Return the images of a batch that this process reads."""
        rows = processes().rows(len(index))
        return index if rows is None or not self.views.by_rows else rows.own(index)

    def has_own_views(self, position: Position) -> bool:
        """Return whether the step at a position draws new views, rather than replaying those of the step before it."""
        return position.batch % self.replays == 0

    def side_fraction(self, epoch: int) -> float:
        """Return the side of the views in an epoch, as a fraction of the images' side."""
        return self.side(end_of_epoch(epoch, self.epochs))

    def batches(self, epoch: int, device: torch.device | str = "cpu") -> tuple[Int[Tensor, "b"], ...]:
        """Return the indices of the images in each batch of an epoch; with replays, not all batches are used.

        All indices move to the device in one transfer, and the call waits for it.
        """
        order, full = self.order(epoch).to(device), self.batch_size * (len(self) - 1)
        return (*order[:full].split(self.batch_size), order[full:]) if full else (order,)

    def views_key(self, position: Position) -> Key:
        """Return the key for the random numbers of a batch's augmentation."""
        return self.key / "views" / position.step

    def make_batch(
        self, index: Int[Tensor, "b"], strength: float, key: Key, side: float = 1.0, rows: Rows | None = None
    ) -> Batch:
        """Make a batch from images: augment them, and shrink images and views to a fraction of their side.

        rows  make these rows of the batch; None: all of it. Random draws are those of the whole batch
        """
        label = None if self.label is None else self.label[index.to(self.images.device)]
        shared = rows if self.views.by_rows else None
        if shared is not None:
            index = shared.own(index)
        image, index = self.images.floats(index), index.to(self.images.device)
        with record_function("views"), sharing(shared):
            views = self.views(image, strength, key)
        if rows is not None and shared is None:  # views of a user's own, which are made of all images
            views, image, index = rows.own(views, 1), rows.own(image), rows.own(index)
        if (width := pixels(side, image.shape[-1])) != image.shape[-1]:
            image, views = shrink(image, width), shrink(views, width)
        return Batch(views, image, label, index, rows)


def end_of_epoch(epoch: int, epochs: int) -> Clock:
    """Return the clock at the end of an epoch, for schedules that do not change within an epoch."""
    return Clock(0, epoch, epoch + 1, epochs)


def pixels(fraction: float, side: int) -> int:
    """Return a fraction of a side, in whole pixels."""
    return max(1, round(fraction * side))


def shrink(x: Float[Tensor, "... N C H W"], side: int) -> Float[Tensor, "... N C h w"]:
    """Resize square images to fewer pixels, each a weighted mean of the pixels it covers."""
    if not x.numel():  # the rows of a process that has none
        return x.new_empty(*x.shape[:-2], side, side)
    small = interpolate(x.flatten(0, -4), (side, side), mode="bilinear", antialias=True)
    return small.clamp_(0, 1).unflatten(0, x.shape[:-3])  # rounding may exceed [0, 1] a little
