"""Sharing work, or the images of a batch, between the processes of torch.distributed; or doing all of it in one.

A batch is global: each process has some of its rows and computes the loss of the whole batch. The gradient that reaches
its own embeddings is that of this loss, in full. So a parameter before the embeddings has in each process a part of its
gradient, and the parts are summed; a parameter that is applied to the embeddings of all processes has all of it in
each. In an update, which takes the mean over processes, own embeddings' gradients count P times: `averaging_gradients`.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any, TypeVar

import torch
from torch import Tensor

from unshaken.base.launchers import launched

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""The longest time that processes wait for work which the first of them does alone, such as decoding images."""


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


@dataclass(frozen=True)
class Processes:
    """The rank of this process, and the number of processes."""

    rank: int = 0
    count: int = 1

    def rows(self, total: int) -> Rows | None:
        """Return this process's rows of a batch of `total` images; None if it is alone and has all."""
        if self.count == 1:
            return None
        sizes = tuple(total // self.count + (rank < total % self.count) for rank in range(self.count))
        return Rows(self.rank, sizes)

    def each(self, pieces: int, make: Callable[[int], T]) -> list[T]:
        """Return [make(0), make(1), ...] in every process; each element is computed by one process.

        `make` must depend on the number alone; then the result is the same for any number of processes.
        """
        own = [make(piece) for piece in range(self.rank, pieces, self.count)]
        if self.count == 1:
            return own
        from torch import distributed

        saved: list[bytes] = [b""] * self.count
        distributed.all_gather_object(saved, _packed(own), _host_group())
        by_rank = [own if rank == self.rank else _unpacked(saved[rank], self.count) for rank in range(self.count)]
        return [by_rank[piece % self.count][piece // self.count] for piece in range(pieces)]

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over processes, in place and without a gradient."""
        if self.count > 1:
            from torch import distributed

            distributed.all_reduce(x)
        return x

    def agree(self, code: int) -> int:
        """Return the largest code of all processes. It waits for no device."""
        if self.count == 1:
            return code
        from torch import distributed

        word = torch.tensor([code])
        distributed.all_reduce(word, distributed.ReduceOp.MAX, _host_group())
        return int(word)

    def first(self, make: Callable[[], T]) -> T:
        """Return what the first process makes, in all of them; if it raises an error there, all raise it.

        The others wait for it, up to PATIENCE, and `make` runs as in a process that is alone. What is made must fit in
        memory twice, and lie on the CPU.
        """
        if self.count == 1:
            return make()
        from torch import distributed

        told: list[Any] = [None, None]
        error: Exception | None = None
        if self.rank == 0:
            try:
                with _alone():
                    told[0] = make()
            except Exception as raised:
                error, told[1] = raised, _portable(raised)
        distributed.broadcast_object_list(told, 0, _host_group())
        if error is None and told[1] is not None:
            error = told[1]
            error.said_elsewhere = True  # pyright: ignore[reportAttributeAccessIssue]
        if error is not None:
            error.told = True  # pyright: ignore[reportAttributeAccessIssue]
            raise error
        return told[0]  # pyright: ignore[reportReturnType]

    def in_turn(self, make: Callable[[], T]) -> T:
        """Return make(), called by the first process alone and then by the others, which find the files it has left."""
        made: list[T] = []
        self.first(lambda: made.append(make()))
        if made:
            return made[0]
        with _alone():
            return make()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.agree(0)


def processes() -> Processes:
    """Return the processes of torch.distributed, or this process alone if it is not initialised, or works by itself."""
    from torch import distributed

    if _Shared.alone or not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """End the group of processes, if there is one; a process that just ended would make the others report an error."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        with suppress(RuntimeError):  # another process has failed
            error = sys.exception()
            if error is None or hasattr(error, "told"):
                processes().wait()
            distributed.destroy_process_group()


class _Shared:
    """The rows of the batch that is being computed, seen by all threads; None: this process has the whole batch.

    averages  gradients are computed of which the mean over processes will be taken
    alone  this process does something by itself, for which the others wait
    host  the default group, and the group of the same processes that talks without waiting for a device
    """

    rows: Rows | None = None
    averages: bool = False
    alone: bool = False
    host: tuple[Any, Any] = (None, None)


@contextmanager
def _alone() -> Iterator[None]:
    before, _Shared.alone = _Shared.alone, True
    try:
        with sharing(None):
            yield
    finally:
        _Shared.alone = before


@contextmanager
def sharing(rows: Rows | None) -> Iterator[None]:
    """Within the block images are these rows of a batch: embeddings are made whole, statistics and draws are shared."""
    before, _Shared.rows = _Shared.rows, rows
    try:
        yield
    finally:
        _Shared.rows = before


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


def _host_group() -> Any:
    """Return the group for words between the hosts: it neither waits for a device nor gives up after minutes."""
    from torch import distributed

    if _Shared.host[0] is not distributed.group.WORLD:
        _Shared.host = distributed.group.WORLD, distributed.new_group(backend="gloo", timeout=PATIENCE)
    return _Shared.host[1]


def _packed(values: Any) -> bytes:
    buffer = BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _unpacked(saved: bytes, count: int) -> Any:
    """Read what another process has packed; what was on its GPU is now on this process's."""
    group = launched()
    here = f"cuda:{group.local[0] if group else 0}"
    return torch.load(BytesIO(saved), {f"cuda:{k}": here for k in range(count)}, weights_only=False)


def _portable(error: Exception) -> Exception:
    """Return the error, or one with the same words if other processes could not read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
