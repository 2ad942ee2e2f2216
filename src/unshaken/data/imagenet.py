"""ImageNet's 1,000 classes: at 32 pixels in memory, at 224 pixels in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch

from unshaken.base.progress import progress
from unshaken.data.cifar_pickle import read_pickle
from unshaken.data.decode import resized
from unshaken.data.folder import Files, listing_of
from unshaken.data.folder_index import Found
from unshaken.data.folder_tree import LeftOut, read_tree
from unshaken.data.image_digests import image_digests, packed_digests, unpacked_digests
from unshaken.data.images import Images
from unshaken.data.prefetch import SplitRequest, gather
from unshaken.data.synsets import DEVKIT, SYNSETS
from unshaken.storage.cache import Decoded, cached, stamp

SIDE, LARGE_SIDE = 32, 224
LARGEST_MEMBER = 1 << 30
"""Bytes of a file in a zip archive above which it is refused. The published ones have 0.4 GB at most."""
ACCOUNT = "--data.download cannot fetch it, because image-net.org asks for an account"


@dataclass(frozen=True)
class Release:
    """The files of a split, and the number of images in all of them."""

    files: tuple[str, ...]
    count: int


RELEASES = {
    "train": Release(tuple(f"train_data_batch_{k}" for k in range(1, 11)), 1_281_167),
    "test": Release(("val_data",), 50_000),
}


def imagenet32(
    root: Path,
    split: str,
    *,
    size: int | None = None,
    limit: int | None = None,
    releases: dict[str, Release] = RELEASES,
) -> Images:
    """Load down-sampled ImageNet (Chrabaszcz, Loshchilov and Hutter, 2017, arXiv:1707.08819) at 32 pixels or resized.

    Its published files are pickles or .npz. They lie in `root` or up to two folders below it, unpacked or in the
    published zip archives. The whole set takes 3.9 GB of memory, and one file's images more while it is read. Labels
    count the classes by WordNet number, as other ImageNet sets do; the files themselves count them otherwise.
    """
    release = releases[split]
    found = {name: _place(root, name) for name in release.files}
    key = ("digests", stamp(dict.fromkeys(found.values())), split, size, limit)
    pixels, metadata = cached(root / "cache", key, lambda: _decoded(found, release.count, size, limit))
    label = torch.tensor([SYNSETS.index(name) for name in DEVKIT])[torch.tensor(metadata["label"]) - 1]
    digests = torch.from_numpy(unpacked_digests(metadata["digests"]))
    return Images(torch.from_numpy(pixels), label, SYNSETS, "imagenet32", split, digests=digests)


def _place(root: Path, name: str) -> Path:
    """Find a file, or the zip archive that should contain it."""
    part = "train" if name.startswith("train") else "val"
    for pattern in (name, f"{name}.npz", f"Imagenet32_{part}.zip", f"Imagenet32_{part}_npz.zip"):
        for location in chain.from_iterable(sorted(root.glob(f"{below}{pattern}")) for below in ("", "*/", "*/*/")):
            return location
    raise ValueError(
        f"{root} has neither {name} of ImageNet at 32 pixels nor a zip archive of it (Imagenet32_{part}.zip, "
        f"Imagenet32_{part}_npz.zip): {ACCOUNT}; name the folder that has it with --data.root"
    )


def _decoded(found: dict[str, Path], count: int, size: int | None, limit: int | None) -> Decoded:
    wanted = count if limit is None else min(count, limit)
    pixels, label, digests = np.empty((wanted, 3, size or SIDE, size or SIDE), np.uint8), [], []
    with progress("reading ImageNet at 32 pixels", wanted, "images") as advance:
        for name, location in found.items():
            if len(label) == wanted:
                break
            with _opened(location, name) as (stream, called):
                data, classes = _batch(stream, called, location)
            data, classes = data[: wanted - len(label)], classes[: wanted - len(label)]
            pixels[len(label) : len(label) + len(data)] = resized(data, size)
            digests.append(image_digests(data))
            label += classes
            advance(len(data))
    if len(label) < wanted:
        raise ValueError(f"{location.parent} has {len(label)} of {count} images: download the files again")
    return pixels, {"label": label, "digests": packed_digests(np.concatenate(digests))}


@contextmanager
def _opened(location: Path, name: str) -> Iterator[tuple[IO[bytes], str]]:
    """Open a file, by itself or inside a zip archive; yields the stream and the file's full name there."""
    if location.suffix != ".zip":
        with location.open("rb") as stream:
            yield stream, location.name
        return
    try:
        packed = ZipFile(location)
    except (BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{location} is cut short or altered ({error}): download it again") from error
    with packed:
        for member in packed.infolist():
            called = PurePosixPath(member.filename).name
            if called in (name, f"{name}.npz"):
                if member.file_size > LARGEST_MEMBER:
                    raise ValueError(
                        f"{location} says that {called} has {member.file_size:,} bytes, which is too many for a file "
                        "of this set: download it again"
                    )
                try:
                    stream = packed.open(member)
                except (RuntimeError, NotImplementedError, BadZipFile, OSError, ValueError) as error:  # e.g. encrypted
                    raise ValueError(f"{location}: {called} cannot be read ({error}): download it again") from None
                try:
                    with stream:
                        yield stream, called
                except BadZipFile as error:  # zipfile compares a checksum when it has read the file to its end
                    raise ValueError(f"{location} is cut short or altered ({error}): download it again") from None
                return
        raise ValueError(f"{location} has no file {name} in it: download it again")


def _batch(stream: IO[bytes], name: str, location: Path) -> tuple[np.ndarray, list[int]]:
    """Return images (n 3 32 32) uint8 and classes 1..1000. ValueError if the file is damaged or of another set."""
    called = name if location.name == name else f"{location}: {name}"
    read: Any = _arrays(stream, called) if name.endswith(".npz") else read_pickle(stream, called)
    if not isinstance(read, dict) or not {"data", "labels"} <= read.keys():
        raise ValueError(
            f"{location}: {name} has no entries 'data' and 'labels', so it is not of ImageNet at 32 pixels"
        )
    data, classes = np.asarray(read["data"]), np.asarray(read["labels"])
    fits = data.dtype == np.uint8 and data.shape == (len(classes), 3 * SIDE**2) and classes.dtype.kind in "iu"
    if not fits or not ((classes >= 1) & (classes <= len(DEVKIT))).all():
        raise ValueError(
            f"{location}: {name} does not hold images of 32 pixels (N, 3072) uint8 with labels 1 to {len(DEVKIT)}"
        )
    return data.reshape(-1, 3, SIDE, SIDE), classes.tolist()


def _arrays(stream: IO[bytes], name: str) -> dict[str, np.ndarray]:
    try:
        with ZipFile(stream) as file:
            if max((member.file_size for member in file.infolist()), default=0) > LARGEST_MEMBER:
                raise ValueError("it declares more bytes than any file of this set has")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in ("data", "labels") if key in file}
    except Exception as error:  # a damaged file may raise any error
        raise ValueError(f"{name} cannot be read ({error}): download it again") from error


def imagenet(
    root: Path,
    split: str,
    *,
    size: int | None = None,
    limit: int | None = None,
    unreadable: str = "stop",
) -> Images:
    """Load ILSVRC2012 (Russakovsky et al., 2015) from its image files, as squares of 224 pixels or of `size`.

    The files are train/n01440764/*.JPEG, ..., and val/ with the same 1,000 folders, in `root`/imagenet or in `root`
    itself. As in any folder of images, the shorter side is resized, the centre is cut out, and the first image of each
    class comes before the second of any class. The decoded training images take 193 GB, in one file under
    `root`/cache, from which batches are read. They are decoded once; an interruption costs at most a thousand of them.
    """
    location = next((location for location in (root / "imagenet", root) if (location / "train").is_dir()), None)
    if location is None:
        raise ValueError(
            f"{root} has no imagenet/train/n01440764/*.JPEG, ..., and imagenet/val with the same folders: {ACCOUNT}; "
            "unpack ILSVRC2012 there, or name the folder that has it with --data.root"
        )
    left = LeftOut()
    listing = _of_all_classes(location, "val" if split == "test" else "train", left)
    found = Found(str(location), {split: listing}, left)
    images = gather(found, SplitRequest(split, size or LARGE_SIDE, limit, unreadable), root / "cache")
    return replace(images, name="imagenet")


def _of_all_classes(location: Path, part: str, left: LeftOut) -> Files:
    folder = location / part
    listing = listing_of(location, read_tree(location, left, part))
    if listing.label is None:
        raise ValueError(f"{folder} has no class folders: move each image into the folder of its class, as in train")
    if wrong := sorted(set(SYNSETS) ^ set(listing.names)):
        missing = len(set(SYNSETS) - set(listing.names))
        raise ValueError(
            f"{folder} lacks {missing} of {len(SYNSETS)} classes and has {len(wrong) - missing} others "
            f"({wrong[0]}, ...): unpack it again; or use a subset of ImageNet as a folder of images: --data {location}"
        )
    return listing
