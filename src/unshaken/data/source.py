"""Image sets by name or path: a recipe's choice of images, and the loading of one split."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from unshaken.base.json_shapes import Or, Whole, check_shape
from unshaken.base.python_words import in_python
from unshaken.base.ranges import Count, Range, ranged
from unshaken.base.serialize import ASIDE, LATER
from unshaken.base.suggest import did_you_mean
from unshaken.base.types import Bool
from unshaken.data.cifar import cifar
from unshaken.data.decode import usual_side
from unshaken.data.digits import digits
from unshaken.data.folder import folder
from unshaken.data.folder_index import Found
from unshaken.data.folder_tree import LeftOut, read_tree
from unshaken.data.given import GivenImages
from unshaken.data.holdout import holdout_split
from unshaken.data.image_digests import EVERY, in_split
from unshaken.data.imagenet import imagenet, imagenet32
from unshaken.data.images import Images
from unshaken.data.packed import load_packed
from unshaken.data.packed_file import is_packed, read_packed
from unshaken.data.parquet import parquet
from unshaken.data.prefetch import PROBE, SplitRequest, gather, where_decoded
from unshaken.data.stl import stl

UNKNOWN = "unknown"
"""The name of a set that is not known and cannot be loaded, such as the training images of an imported model."""
STANDARD = ("digits", "cifar10", "cifar100", "stl10", "imagenet32", "imagenet")


@dataclass(frozen=True)
@ranged
class DataSource:
    """A standard image set by its name, or a user's own: a folder of images, Parquet files, or a packed set.

    A user's own set may have a train and a test split: folders train/ and test/ (or val/), or files train-*.parquet and
    test-*.parquet (or validation-*.parquet); similar names are understood too. A set with classes but without a test
    split is divided: about one image in five is a test image, in pre-training and in fine-tuning alike. Which ones,
    each image's own content decides, so that adding or removing images moves no other image, and copies of an image
    are never on both sides. In a set without classes, or with folders named by dates, all images are for training. A
    line on stderr says how the set was read.

    Images of a user's own set become RGB squares: the shorter side is resized, the centre is cut out.
    """

    name: str = "digits"
    """Name of a standard set (digits, cifar10, cifar100, stl10, imagenet32, imagenet), or path of a folder of images, a
    Parquet file, a folder of Parquet files, or a file that `unshaken pack` wrote, from which batches are read. Write
    ./cifar10 for a folder with the name of a standard set."""

    root: str = field(default="data", metadata=ASIDE)
    """Folder of the standard sets' archives, also for downloads. Decoded copies of all sets are written to cache/ in
    it."""

    size: Count | None = None
    """Image size in pixels (the side of a square). None: with a recipe, the image size of its network. Without a
    recipe, a standard set has the size in which it is stored (imagenet: 224). A user's own set then has the size of its
    first 64 training images if these are squares of the same size, up to 224, else 32."""

    limit: Count | None = None
    """Use only this many images of the training split, the first ones. The test split is never limited."""

    download: bool = field(default=False, metadata=ASIDE)
    """Download a standard set that is missing. The ImageNet sets cannot be downloaded: they need an account."""

    unreadable: Literal["stop", "skip"] = "stop"
    """What to do about unreadable images: stop with a message that names the first, or skip them and name some."""

    bits: Annotated[int, Range(8, 16)] | None = field(default=None, metadata=LATER)
    """Number of bits that grey images of 16 bits per pixel really use, such as 12. None: the number that a file
    declares, else 16; if all images seem to use fewer, reading stops with a message."""

    given: Annotated[GivenImages | None, tyro.conf.Fixed, tyro.conf.Suppress] = field(default=None, metadata=LATER)
    """Images of a user's own program, in place of a set on disk; `name` is then only what they are called."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _normalised(self.name))
        for name in ("size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--data.{name} must be at least 1, not {value}")
        if self.unreadable not in ("stop", "skip"):
            raise ValueError(f"--data.unreadable must be stop or skip, not {self.unreadable!r}")

    @in_python
    def load(self, split: str = "train") -> Images:
        """Load the images of a split: "train" or "test"; for STL-10 also "unlabeled", for a user's own set also "all".

        "all" needs a set that comes without splits. ValueError for a user's mistake.
        """
        if self.given is not None:
            return self.given.load(self.name, split, self.limit)
        more = {"stl10": ("unlabeled",)}.get(self.name, () if self.name in STANDARD else ("all",))
        splits = ("train", "test", *more)
        if split not in splits:
            raise ValueError(f"{self.name} has no split {split!r}; it has {', '.join(splits)}")
        images = self._open(split, None if split == "test" else self.limit)
        if len(images) > 1 and images.label is not None and images.label.unique().numel() == 1 < len(images.names):
            print(f"{self.name}: all {len(images)} {split} images are of the same class", file=sys.stderr)
        return images

    @classmethod
    @in_python
    def of(cls, data: Any) -> DataSource:
        """Return the source of a user's own images: of `Images`, or of anything that `Images.of` reads."""
        if isinstance(data, (str, Path)):
            return cls(str(data))
        if isinstance(data, DataSource):
            return data
        given, name = GivenImages.of(data)
        return cls(name, given=given)

    def estimated(self, split: str) -> int:
        """Return about how many images a split of a user's own set has, before any is decoded."""
        if self.given is not None:
            return len(self.load(split))
        listing, by_content = found_at(self._path()).split(split)
        if not by_content:
            return len(listing)
        return len(listing) // EVERY if split == "test" else len(listing) - len(listing) // EVERY

    def usual_side(self) -> int | None:
        """Return the median of the shorter sides of the first training images of a user's own set, in pixels."""
        if self.given is not None:
            return min(self.load("train").pixels.shape[2:])
        listing, _ = found_at(self._path()).split("train")
        return usual_side(encoded for _, encoded in islice(listing.encoded(), PROBE))

    def where(self, count: int, side: int) -> str:
        """Say how a user's own set of a number of images is kept while it is used; empty if that needs no word."""
        path = Path(self.name).expanduser()
        if self.given is not None or self.name in STANDARD or not path.exists():
            return ""
        if is_packed(path):
            return f"read from {path} and decoded batch by batch; the pixels are never in memory all at once"
        return where_decoded(count, side, Path(self.root).expanduser() / "cache")

    def holdout_mask(self, images: Images, every: int, split: int) -> Bool[Tensor, "N"]:
        """Return which labelled training images to hold out, about one in `every`.

        In a standard set it is the `every`-th image of each class. In a user's own set each image's content decides, as
        it does for test images.
        """
        if self.name in STANDARD and self.given is None:
            return torch.from_numpy(holdout_split(images.label.numpy(), every))
        return torch.from_numpy(in_split(images.image_digests.numpy().view(np.uint64), every, split))

    def _open(self, split: str, limit: int | None) -> Images:
        root = Path(self.root).expanduser()
        match self.name:
            case "digits":
                if self.size not in (None, 8):
                    raise ValueError(
                        f"digits have 8 x 8 pixels, not {self.size}: use a recipe for digits, such as acl/digits, "
                        "and leave out --data.size and --backbone.image-size"
                    )
                return digits(split)[:limit]
            case "cifar10":
                return cifar(10, root, split, self.download, size=self.size, limit=limit)
            case "cifar100":
                return cifar(100, root, split, self.download, size=self.size, limit=limit)
            case "stl10":
                return stl(root, split, self.download, size=self.size, limit=limit)
            case "imagenet32":
                return imagenet32(root, split, size=self.size, limit=limit)
            case "imagenet":
                return imagenet(root, split, size=self.size, limit=limit, unreadable=self.unreadable)
        path, wanted = self._path(), SplitRequest(split, self.size, limit, self.unreadable, self.bits)
        if is_packed(path):
            return load_packed(path, wanted)
        return replace(gather(found_at(path), wanted, root / "cache"), name=path.resolve().name)

    def _path(self) -> Path:
        if self.name == UNKNOWN:
            raise ValueError("the images that these weights were trained on are not known: name a set with --data")
        path = Path(self.name).expanduser()
        if not self.name or not path.exists():
            hint = did_you_mean(self.name.lower().replace("-", "").replace("_", ""), STANDARD)
            where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
            raise ValueError(
                f"no image set {self.name!r}: it is neither one of {', '.join(STANDARD)} nor an existing "
                f"path{where}{hint}"
            )
        return path


def found_at(path: Path) -> Found:
    """Read which images, Parquet files or packed images there are at a path. ValueError if there are none."""
    if path.is_file() and is_packed(path):
        return read_packed(path).found()
    if path.is_file() and path.suffix.lower() in (".zip", ".tar"):
        raise ValueError(f"{path} is an archive: `unshaken pack {path} --out FILE` makes one file of it to train on")
    if path.is_file() and path.suffix.lower() != ".parquet":
        raise ValueError(f"{path} is a file: name a folder of images, a Parquet file, or a folder of Parquet files")
    if path.is_file():
        return parquet(path)
    left = LeftOut()
    tree = read_tree(path, left)
    if tree.holds() and tree.holds(tables=True):
        raise ValueError(
            f"{path} has images ({tree.files()[0]}, ...) and Parquet files ({tree.files(tables=True)[0]}, ...): "
            "name a folder that has only one kind"
        )
    return parquet(path, tree, left) if tree.holds(tables=True) else folder(path, tree, left)


def _normalised(name: str) -> str:
    """Write a path in one way, so that photos and photos/ are the same set."""
    if not name or name in STANDARD:
        return name
    path = str(Path(name))
    return f"./{path}" if path in STANDARD else path


def standard_name(source: DataSource) -> str:
    """Return the standard set that a source is, or that its folder is named after (cifar10/); else its own name."""
    called = Path(source.name).stem.lower()
    return called if called in STANDARD and called != "digits" else source.name


SOURCE = {
    "name": str,
    "root?": str,
    "size?": Or((Whole(1), None)),
    "limit?": Or((Whole(1), None)),
    "download?": bool,
    "unreadable?": ("stop", "skip"),
    "bits?": Or((Whole(8, 16), None)),
    "given?": {"digest": str},
}
"""The shape of a `DataSource` in a recipe's JSON."""


def source_of(saved: dict[str, Any], run: Path | None = None) -> DataSource:
    """Read the image set that a recipe in JSON names. A file from somebody else chooses no path and no download.

    run  the folder of the user's own run that the recipe is from: its set may be a path and lie under another root, if
         no cache folder would have to be made there. Without a run, a path becomes UNKNOWN, and standard sets are
         looked for in the user's own root.

    ValueError if this version cannot read it.
    """
    saved = check_shape(saved, SOURCE, "the recipe's data")
    fields = {name: value for name, value in saved.items() if name not in ("type", "root", "download")}
    if "given" in fields:
        fields["given"] = GivenImages(fields["given"]["digest"])
    own = run is not None and (run / "recipe.json").exists()
    root = Path(saved.get("root") or "data").expanduser()
    if own and "root" in saved and ((root / "cache").is_dir() or root.is_dir() and not os.access(root, os.W_OK)):
        fields["root"] = saved["root"]
    if not own and fields["name"] not in STANDARD:
        fields["name"] = UNKNOWN
    try:
        return DataSource(**fields)
    except TypeError as error:
        raise ValueError(
            f"the recipe's data cannot be read ({error}): it may have been written by a newer version"
        ) from None
