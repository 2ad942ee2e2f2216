"""A batch that processes share: the rows of each, gathered embeddings, and gradients of the whole batch's loss

A batch is global: each process has some of its rows and computes the loss of the whole batch. The gradient that reaches
its own embeddings is that of this loss, in full. So a parameter before the embeddings has in each process a part of its
gradient, and the parts are summed; a parameter that is applied to the embeddings of all processes has all of it in
each. In an update, which takes the mean over processes, own embeddings' gradients count P times: `averaging_gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The rows of a batch that this process has: blocks in the order of ranks, whose sizes differ by one at most."""

    rank: int
    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        """The number of rows of the whole batch."""
        return sum(self.sizes)

    @property
    def slice(self) -> slice:
        begin = sum(self.sizes[: self.rank])
        return slice(begin, begin + self.sizes[self.rank])

    def own(self, x: Tensor, axis: int = 0) -> Tensor:
        """Return the own rows of a tensor of the whole batch."""
        return x.narrow(axis, self.slice.start, self.sizes[self.rank])

    def whole(self, x: Tensor, axis: int = 0) -> Tensor:
        """Return the rows of all processes, in order; every process has to call it. Its gradient is that of own rows.

        This gradient is complete if every process computes the same function of the whole.
        """
        return _Whole.apply(x, self, axis)


class _Whole(torch.autograd.Function):
    """Gather rows forwards; keep the gradient of own rows backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, axis: int) -> Tensor:
        ctx.rows, ctx.axis = rows, axis
        return _gather(x.movedim(axis, 0).contiguous(), rows.sizes).movedim(0, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        own = ctx.rows.own(grad, ctx.axis).contiguous()
        return own * len(ctx.rows.sizes) if _Shared.averages else own, None, None


def _gather(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Gather (n ...) of each process to (N ...), padded in between, since gloo gathers equal shapes only."""
    from torch import distributed

    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _Shared:
    """The batch that is being computed, seen by all threads.

    rows      the rows of it that this process has; None: the whole batch
    images    the number of its images; None: it is not known
    averages  gradients are computed of which the mean over processes will be taken
    """

    rows: Rows | None = None
    images: int | None = None
    averages: bool = False


@contextmanager
def sharing(rows: Rows | None, images: int | None = None) -> Iterator[None]:
    """Within the block images are these rows of a batch: embeddings are made whole, statistics and draws are shared.

    images  the number of images of the whole batch, if `rows` does not say it
    """
    before = _Shared.rows, _Shared.images
    _Shared.rows, _Shared.images = rows, images if rows is None else rows.total
    try:
        yield
    finally:
        _Shared.rows, _Shared.images = before


@contextmanager
def averaging_gradients() -> Iterator[None]:
    """Within the block backward passes give gradients whose mean over processes is that of the whole batch's loss."""
    before, _Shared.averages = _Shared.averages, True
    try:
        yield
    finally:
        _Shared.averages = before


def averages_gradients() -> bool:
    """Return whether gradients are computed of which the mean over processes will be taken."""
    return _Shared.averages


def shared_rows() -> Rows | None:
    """Return the rows of the batch that is being computed; None if this process has the whole batch."""
    return _Shared.rows


def batch_images() -> tuple[int, range] | None:
    """Return the number of images of the whole batch, and the places of own ones in it; None if it is not known."""
    rows, images = _Shared.rows, _Shared.images
    if images is None:
        return None
    return images, range(images) if rows is None else range(rows.slice.start, rows.slice.stop)


def whole_batch(x: Tensor, axis: int) -> Tensor:
    """Return the rows of the whole batch, from own ones along an axis; x itself if it is the whole batch."""
    return x if _Shared.rows is None else _Shared.rows.whole(x, axis)


def own_rows(x: Tensor, axis: int) -> Tensor:
    """Return the own rows of a tensor of the whole batch."""
    return x if _Shared.rows is None else _Shared.rows.own(x, axis)


def whole_shape(x: Tensor) -> Tensor:
    """Return a tensor of zeros, in no memory of its own, with the shape of the whole batch of which x has own rows."""
    return x if _Shared.rows is None else x.new_zeros(1).expand(_Shared.rows.total, *x.shape[1:])


def drawn(like: Tensor, axis: int, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Return random numbers in the shape of `like`, whose rows lie along an axis; `fill` draws them in place.

    They are drawn for the whole batch and own rows are kept: the same for any number of processes.
    """
    rows = _Shared.rows
    if rows is None:
        return fill(torch.empty_like(like))
    shape = list(like.shape)
    shape[axis] = rows.total
    return rows.own(fill(like.new_empty(shape)), axis)
