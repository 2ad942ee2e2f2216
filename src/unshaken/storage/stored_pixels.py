"""Images that stay in a file: threads read rows when they are indexed, and the next batches ahead of their use"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unshaken.base.atomic_files import naming
from unshaken.base.types import Int, UInt8

AHEAD = 4
"""Batches that are read ahead."""
AHEAD_BYTES = 1 << 28
"""Bytes of pixels that are read ahead: above this, fewer batches, but always one."""
MOST_THREADS = 32


class PositionedFile:
    """A file that many threads read at once, each at a position of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()
        with naming(path):
            self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python ends, `os` may be gone before
        if hasattr(self, "_handle"):
            close(self._handle)

    def read(self, size: int, position: int) -> bytes:
        """Read bytes; fewer at the end of the file."""
        with naming(self.path):
            if hasattr(os, "pread"):
                return os.pread(self._handle, size, position)
            with self._lock:  # Windows
                os.lseek(self._handle, position, os.SEEK_SET)
                return os.read(self._handle, size)


class PixelSource(ABC):
    """A file from which threads read images of one shape.

    one      the shape (C H W) of an image
    threads  how many read at the same time; more than there are cores pay where they wait for a disk
    streams  images are read whenever they are used, even if all of them would fit into memory
    """

    one: tuple[int, int, int]
    threads: int
    streams: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, row: int, out: np.ndarray) -> None:
        """Write an image into `out` (C H W) uint8. ValueError, in one line, if it was damaged in the file."""


class Reading(NamedTuple):
    """A batch that threads are reading: its rows, the tensor that they fill, and what they have still to do."""

    rows: np.ndarray
    pixels: Tensor
    parts: list[Future[None]]

    def result(self) -> Tensor:
        """Wait for all parts. The first error is raised, and the other parts are given up."""
        try:
            for part in self.parts:
                part.result()
        except BaseException:
            self.cancel()
            raise
        return self.pixels

    def cancel(self) -> None:
        for part in self.parts:
            part.cancel()


class StoredPixels:
    """A uint8 tensor (N C H W) that stays in a file: an index reads rows into memory, and a selection reads nothing.

    What is read depends on the rows alone. `expect` only starts to read earlier what will be asked for.

    rows    the rows of the source, in the order of the images
    pinned  read into page-locked memory, from which a copy to a GPU does not wait
    """

    dtype = torch.uint8
    device = torch.device("cpu")
    ndim = 4

    def __init__(self, source: PixelSource, rows: np.ndarray | None = None, pinned: bool = False) -> None:
        self.source = source
        self.rows = np.arange(len(source)) if rows is None else rows
        self.pinned = pinned
        self._ahead: deque[Reading] = deque()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.source.one))

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, if they were in memory."""
        return prod(self.shape)

    def __getitem__(self, index: Any) -> UInt8[Tensor, "..."]:
        """Read some images into memory; a single one for a number."""
        if isinstance(index, (int, np.integer)):
            return self._start(self.rows[[int(index)]]).result()[0]
        rows = self._rows(index)
        while self._ahead:
            first = self._ahead.popleft()
            if np.array_equal(first.rows, rows):
                return first.result()
            first.cancel()
        return self._start(rows).result()

    def select(self, index: Any) -> StoredPixels:
        """Select images without reading them."""
        return StoredPixels(self.source, self._rows(index), self.pinned)

    def expect(self, batches: Sequence[Int[Tensor, "_"]]) -> None:
        """Start to read batches that will be asked for next, in this order, as far as memory allows."""
        wanted = [self._rows(batch) for batch in batches[:AHEAD]]
        while self._ahead and not (wanted and np.array_equal(self._ahead[0].rows, wanted[0])):
            self._ahead.popleft().cancel()
        for place, rows in enumerate(wanted):
            if place < len(self._ahead):
                if not np.array_equal(self._ahead[place].rows, rows):
                    break
            elif place and sum(map(len, wanted[: place + 1])) * prod(self.source.one) > AHEAD_BYTES:
                break
            else:
                self._ahead.append(self._start(rows))

    def cpu(self) -> Tensor:
        """Read all images into memory."""
        return self[:]

    def to(self, device: torch.device | str) -> Tensor:
        """Read all images into the memory of a device."""
        return self[:].to(device)

    def for_device(self, device: torch.device) -> StoredPixels:
        """Return the same images for use on a device: for a GPU, they are read into page-locked memory."""
        return StoredPixels(self.source, self.rows, _is_accelerator(device))

    def _rows(self, index: Any) -> np.ndarray:
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        return np.atleast_1d(self.rows[index])

    def _start(self, rows: np.ndarray) -> Reading:
        """Let threads read rows, in parts of a few images."""
        pixels = torch.empty((len(rows), *self.source.one), dtype=torch.uint8, pin_memory=self.pinned)
        out, pool = pixels.numpy(), _threads(self.source.threads, os.getpid())
        size = max(1, len(rows) // (4 * self.source.threads))
        starts = range(0, len(rows), size)
        parts = [pool.submit(_read, self.source, rows[k : k + size], out[k : k + size]) for k in starts]
        return Reading(rows, pixels, parts)


def _read(source: PixelSource, rows: np.ndarray, out: np.ndarray) -> None:
    for row, image in zip(rows.tolist(), out, strict=True):
        source.read(row, image)


@cache
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Return threads of this process: those of its parent do not run in a fork."""
    return ThreadPoolExecutor(min(count, MOST_THREADS), "unshaken-read")


def to_device(pixels: UInt8[Tensor, "..."], device: torch.device) -> UInt8[Tensor, "..."]:
    """Copy pixels to a device. From page-locked memory this is on a stream of its own, beside what a GPU computes."""
    if not (_is_accelerator(device) and pixels.is_pinned()):
        return pixels.to(device)
    current, side = torch.accelerator.current_stream(device), _side_stream(device)
    with side:
        moved = pixels.to(device, non_blocking=True)
    current.wait_stream(side)
    moved.record_stream(current)
    return moved


@cache
def _side_stream(device: torch.device) -> torch.Stream:
    return torch.Stream(device)


@cache
def _is_accelerator(device: torch.device) -> bool:
    """Return whether a device has page-locked memory and streams: MPS shares its memory with the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found is not None and found.type == device.type != "mps"


class JoinedPixels(PixelSource):
    """Images of several sets, one set after the other: in memory or in files."""

    def __init__(self, parts: Sequence[Tensor | StoredPixels]) -> None:
        self.one = tuple(parts[0].shape[1:])  # pyright: ignore[reportAttributeAccessIssue]
        self.parts, self.ends = parts, np.cumsum([len(part) for part in parts])
        self.streams = True
        self.threads = max(part.source.threads if isinstance(part, StoredPixels) else 1 for part in parts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, row: int, out: np.ndarray) -> None:
        place = int(np.searchsorted(self.ends, row, side="right"))
        part = self.parts[place]
        inside = row - (int(self.ends[place - 1]) if place else 0)
        if isinstance(part, StoredPixels):
            part.source.read(int(part.rows[inside]), out)
        else:
            out[...] = part[inside].numpy()
