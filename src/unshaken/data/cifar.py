"""CIFAR-10 and CIFAR-100 from their original archives, packed or unpacked."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from unshaken.data.archive import Archive
from unshaken.data.cache import Decoded, cached
from unshaken.data.decode import resized
from unshaken.data.images import Images


@dataclass(frozen=True)
class Release:
    """An archive of Python pickles (Krizhevsky, 2009), and how its files and their entries are called."""

    archive: Archive
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: str
    names: str


HOME = "https://www.cs.toronto.edu/~kriz"
RELEASES = {
    10: Release(
        Archive(f"{HOME}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
        train=tuple(f"data_batch_{k}" for k in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels="labels",
        names="label_names",
    ),
    100: Release(
        Archive(f"{HOME}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
        train=("train",),
        test=("test",),
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
    ),
}


def cifar(
    classes: int,
    root: Path,
    split: str,
    download: bool = False,
    *,
    size: int | None = None,
    limit: int | None = None,
    release: Release | None = None,
) -> Images:
    """CIFAR with 10 or 100 (fine) classes, its first `limit` images, at 32 pixels or resized to `size`."""
    release = release or RELEASES[classes]
    batches = release.test if split == "test" else release.train
    wanted = (release.meta, *batches)
    place = release.archive.find(root, download)

    def decode() -> Decoded:
        read = {name: _unpickled(stream, name) for name, stream, _ in release.archive.members(place, wanted)}
        pixels = np.concatenate([_entry(read, batch, "data") for batch in batches]).reshape(-1, 3, 32, 32)[:limit]
        label = np.concatenate([_entry(read, batch, release.labels) for batch in batches])[:limit]
        names = _entry(read, release.meta, release.names).tolist()
        return resized(pixels, size), {"label": label.tolist(), "names": names}

    key = (release.archive.stamp(place, wanted), split, size, limit)
    pixels, about = cached(root / "cache", key, decode)
    label = torch.tensor(about["label"], dtype=torch.int64)
    return Images(torch.from_numpy(pixels), label, tuple(about["names"]), f"cifar{classes}", split)


def _entry(read: dict[str, Any], file: str, key: str) -> np.ndarray:
    if not isinstance(read[file], dict) or key not in read[file]:
        raise ValueError(f"{file} has no entry {key!r}: it is not of this set")
    return np.asarray(read[file][key])


def _unpickled(stream: IO[bytes], name: str) -> Any:
    try:
        return _Restricted(stream, encoding="latin1").load()
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"{name} cannot be read ({error}): unpack the archive again") from error


class _Restricted(pickle.Unpickler):
    """Reads numbers, text and NumPy arrays. A pickle may name any function to call: all others are refused."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is refused: only numbers, text and NumPy arrays belong here")
        return _ALLOWED[module, name]


def _dtype(code: str, align: int = 0, copy: int = 0) -> np.dtype:
    # the archives, written by an old NumPy, say 0 and 1 where a new one insists on booleans
    return np.dtype(code, bool(align), bool(copy))


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # its module has changed its name between versions of NumPy
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
