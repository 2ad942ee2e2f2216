"""CIFAR-10 and CIFAR-100 from their original archives, packed or unpacked."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unshaken.data.cifar_pickle import read_pickle
from unshaken.data.decode import resized
from unshaken.data.image_digests import image_digests, packed_digests, unpacked_digests
from unshaken.data.images import Images
from unshaken.storage.archive import Archive
from unshaken.storage.cache import Decoded, cached


@dataclass(frozen=True)
class Release:
    """An archive of Python pickles (Krizhevsky, 2009), and the names of its files and of their entries."""

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
    """Load CIFAR with 10 or 100 (fine) classes: its first `limit` images, at 32 pixels or resized to `size`."""
    release = release or RELEASES[classes]
    batches = release.test if split == "test" else release.train
    wanted = (release.meta, *batches)
    location = release.archive.find(root, download)

    def decode() -> Decoded:
        with closing(release.archive.members(location, wanted)) as members:  # pyright: ignore[reportArgumentType]
            read = {name: read_pickle(stream, name) for name, stream, _ in members}
        data = [_entry(read, batch, "data", np.uint8, (None, 3 * 32 * 32)) for batch in batches]
        label = [_entry(read, batch, release.labels, np.int64, (None,)) for batch in batches]
        if odd := next((b for b, d, y in zip(batches, data, label, strict=True) if len(d) != len(y)), None):
            raise ValueError(f"{odd} does not have one label for each image, so it is not a file of CIFAR-{classes}")
        pixels = np.concatenate(data).reshape(-1, 3, 32, 32)[:limit]
        names = [str(name) for name in _entry(read, release.meta, release.names, np.str_, (None,))]
        metadata = {"label": np.concatenate(label)[:limit].tolist(), "names": names}
        return resized(pixels, size), metadata | {"digests": packed_digests(image_digests(pixels))}

    key = ("digests", release.archive.stamp(location, wanted), split, size, limit)
    pixels, metadata = cached(root / "cache", key, decode)
    label, digests = torch.tensor(metadata["label"], dtype=torch.int64), unpacked_digests(metadata["digests"])
    name = f"cifar{classes}"
    return Images(
        torch.from_numpy(pixels), label, tuple(metadata["names"]), name, split, digests=torch.from_numpy(digests)
    )


def _entry(read: dict[str, Any], file: str, key: str, kind: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return an entry of a file as an array of the given type and shape; None in `shape` stands for any length."""
    if not isinstance(read[file], dict) or key not in read[file]:
        raise ValueError(f"{file} has no entry {key!r}, so it is not a file of CIFAR")
    try:
        entry = np.asarray(read[file][key])
    except ValueError:
        entry = np.empty((), object)
    fits = len(entry.shape) == len(shape) and all(want in (None, n) for want, n in zip(shape, entry.shape, strict=True))
    same = entry.dtype.kind in {np.int64: "iu", np.str_: "U"}.get(kind, "") or entry.dtype == kind
    if not fits or not same:
        raise ValueError(f"{file}: {key!r} is {entry.dtype} of shape {entry.shape}, so it is not a file of CIFAR")
    return entry.astype(kind)
