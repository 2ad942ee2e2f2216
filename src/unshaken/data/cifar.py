"""CIFAR-10 and CIFAR-100 from their original archives, packed or unpacked."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unshaken.data.archive import Archive
from unshaken.data.cache import Decoded, cached
from unshaken.data.decode import resized
from unshaken.data.images import Images
from unshaken.data.pickled import unpickled


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
        with closing(release.archive.members(place, wanted)) as members:
            read = {name: unpickled(stream, name) for name, stream, _ in members}
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
