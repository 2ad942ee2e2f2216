"""Which images: a name or a path, opened as one split."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from unshaken.base.json_shapes import Or, Whole, check_shape
from unshaken.base.ranges import Count, Range, ranged
from unshaken.base.serialize import ASIDE, LATER
from unshaken.base.suggest import did_you_mean
from unshaken.base.types import Bool
from unshaken.data.cifar import cifar
from unshaken.data.digits import digits
from unshaken.data.folder import folder
from unshaken.data.folder_index import Found
from unshaken.data.folder_tree import LeftOut, read_tree
from unshaken.data.holdout import holdout_split
from unshaken.data.image_digests import falls
from unshaken.data.imagenet import imagenet, imagenet32
from unshaken.data.images import Images
from unshaken.data.parquet import parquet
from unshaken.data.prefetch import Wanted, gather
from unshaken.data.stl import stl

UNKNOWN = "unknown"
"""The name of a set of which nothing is known, and which cannot be opened: what others trained on."""
KNOWN = ("digits", "cifar10", "cifar100", "stl10", "imagenet32", "imagenet")


@dataclass(frozen=True)
@ranged
class DataSource:
    """A known set, or a user's own images: a folder of images, a Parquet file, or a folder of Parquet files.

    A set of one's own that comes with a train and a test part (subfolders train/ and test/ or val/; shards
    train-*.parquet and test-*.parquet or validation-*.parquet; by any of the names that people give them) is split as
    it comes. Else, if it has classes, about one image in five is for testing, in pre-training and in fine-tuning alike:
    which ones, each image's own content decides, so that no other image that comes or goes moves it, and its copies
    are on its side. Without classes, or where folders are called by dates, all are for training. A line on stderr says
    what was understood.

    A set of one's own is brought to RGB squares: the shorter side is resized, the centre cut out.
    """

    name: str = "digits"
    """digits, cifar10, cifar100, stl10, imagenet32, imagenet; or a path (./cifar10, where a folder is called like a
    known set)."""

    root: str = field(default="data", metadata=ASIDE)
    """Where archives lie or are downloaded to; decoded copies are kept under its cache/."""

    size: Count | None = None
    """Side in pixels. None: in a recipe, the side that the network's stem is for; else as stored (imagenet: 224), and a
    set of one's own has the size of its first 64 training images if they are squares of one size (at most 224), or 32.
    """

    limit: Count | None = None
    """Only the first so many images, but always all of the test split."""

    download: bool = field(default=False, metadata=ASIDE)
    """Whether a known set that is not there is downloaded, if that takes no account."""

    unreadable: Literal["stop", "skip"] = "stop"
    """What to do when images cannot be read: say which and stop, or say which and go on without them."""

    bits: Annotated[int, Range(8, 16)] | None = field(default=None, metadata=LATER)
    """How many of the 16 bits of grey 16-bit files are used, such as 12. None: those that a file declares, or 16; where
    all images look like fewer, reading stops."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _written(self.name))
        for name in ("size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--data.{name} must be at least 1, not {value}")
        if self.unreadable not in ("stop", "skip"):
            raise ValueError(f"--data.unreadable is stop or skip, not {self.unreadable!r}")

    def load(self, split: str = "train") -> Images:
        """The images of "train" or "test"; STL-10 also has "unlabeled", and a set of one's own without parts "all".

        ValueError for a user's mistake.
        """
        more = {"stl10": ("unlabeled",)}.get(self.name, () if self.name in KNOWN else ("all",))
        splits = ("train", "test", *more)
        if split not in splits:
            raise ValueError(f"{self.name} has no split {split!r}; it has {', '.join(splits)}")
        images = self._open(split, None if split == "test" else self.limit)
        if len(images) > 1 and images.label is not None and images.label.unique().numel() == 1 < len(images.names):
            print(f"{self.name}: all {len(images)} {split} images are of one class", file=sys.stderr)
        return images

    def aside(self, images: Images, every: int, split: int) -> Bool[Tensor, "N"]:
        """Which of the labelled training images a split takes, one in `every`.

        Of a known set the `every`-th of each class; of one's own each image's content decides, as it does for testing.
        """
        if self.name in KNOWN:
            return torch.from_numpy(holdout_split(images.label.numpy(), every))
        return torch.from_numpy(falls(images.image_digests.numpy().view(np.uint64), every, split))

    def _open(self, split: str, limit: int | None) -> Images:
        root = Path(self.root).expanduser()
        match self.name:
            case "digits":
                if self.size not in (None, 8):
                    raise ValueError(
                        f"digits have 8 x 8 pixels, not {self.size}: take their own recipe, such as acl/digits, "
                        "and leave --data.size and --backbone.image-size as they are"
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
        path, wanted = self._path(), Wanted(split, self.size, limit, self.unreadable, self.bits)
        return replace(gather(self._found(path), wanted, root / "cache"), name=path.resolve().name)

    def _found(self, path: Path) -> Found:
        """What there is at a path: images, or Parquet files."""
        if path.is_file():
            return parquet(path)
        left = LeftOut()
        tree = read_tree(path, left)
        if tree.holds() and tree.holds(tables=True):
            raise ValueError(
                f"{path} has images ({tree.files()[0]}, ...) and Parquet files ({tree.files(tables=True)[0]}, ...): "
                "name the folder of one, or move the other away"
            )
        return parquet(path, tree, left) if tree.holds(tables=True) else folder(path, tree, left)

    def _path(self) -> Path:
        if self.name == UNKNOWN:
            raise ValueError("which images these weights were trained on is not known here: name a set by --data")
        path = Path(self.name).expanduser()
        if not self.name or not path.exists():
            hint = did_you_mean(self.name.lower().replace("-", "").replace("_", ""), KNOWN)
            raise ValueError(f"no image set {self.name!r}: it is none of {', '.join(KNOWN)}, nor a path{hint}")
        if path.is_file() and path.suffix.lower() != ".parquet":
            raise ValueError(f"{path} is a file: a set is a folder of images, a Parquet file or a folder of them")
        return path


def _written(name: str) -> str:
    """A path in one way of writing it, so that photos and photos/ are one set."""
    if not name or name in KNOWN:
        return name
    path = str(Path(name))
    return f"./{path}" if path in KNOWN else path


def known_as(source: DataSource) -> str:
    """The known set that a source is, or that its folder is named after (a Parquet copy in cifar10/); else its own name."""
    called = Path(source.name).stem.lower()
    return called if called in KNOWN and called != "digits" else source.name


SOURCE = {
    "name": str,
    "root?": str,
    "size?": Or((Whole(1), None)),
    "limit?": Or((Whole(1), None)),
    "download?": bool,
    "unreadable?": ("stop", "skip"),
    "bits?": Or((Whole(8, 16), None)),
}
"""What a recipe in JSON says of its images."""


def source_of(saved: dict[str, Any], run: Path | None = None) -> DataSource:
    """The image set that a recipe in JSON names. What a file says of places and of the network is not followed.

    run  the folder that the recipe is of. If it is that of a run, its set may be a path, and lie in another root, as
         long as no folder for decoded images would be made there. Elsewhere, in a file that somebody sent, a path is an
         unknown set, and known ones lie in one's root.

    ValueError if this version knows no such source.
    """
    saved = check_shape(saved, SOURCE, "the recipe's data")
    fields = {name: value for name, value in saved.items() if name not in ("type", "root", "download")}
    own = run is not None and (run / "recipe.json").exists()
    root = Path(saved.get("root") or "data").expanduser()
    if own and "root" in saved and ((root / "cache").is_dir() or root.is_dir() and not os.access(root, os.W_OK)):
        fields["root"] = saved["root"]
    if not own and fields["name"] not in KNOWN:
        fields["name"] = UNKNOWN
    try:
        return DataSource(**fields)
    except TypeError as error:
        raise ValueError(f"the recipe's data cannot be read by this version ({error}): is it newer?") from None
