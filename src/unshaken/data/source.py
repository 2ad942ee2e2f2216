"""Which images: a name or a path, opened as one split."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from unshaken.base.canon import ASIDE
from unshaken.base.ranges import Count, ranged
from unshaken.data.cifar import cifar
from unshaken.data.digits import digits
from unshaken.data.folder import folder
from unshaken.data.gather import gather
from unshaken.data.imagenet import imagenet, imagenet32
from unshaken.data.images import Images
from unshaken.data.parquet import parquet
from unshaken.data.stl import stl

UNKNOWN = "unknown"
"""The name of a set of which nothing is known, and which cannot be opened: what others trained on."""
KNOWN = ("digits", "cifar10", "cifar100", "stl10", "imagenet32", "imagenet")


@dataclass(frozen=True)
@ranged
class Source:
    """A known set, or a user's own images: a folder of images, a Parquet file, or a folder of Parquet files.

    A set of one's own that comes with a train and a test part (subfolders train/ and test/ or val/; shards
    train-*.parquet and test-*.parquet or validation-*.parquet) is split as it comes. Else, if it has labels, every
    fifth image of each class (by name in a folder, by row in Parquet) is the test split and the others are the train
    split, in pre-training and in fine-tuning alike, so that nothing leaks. Without labels all are for training.

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

    def __post_init__(self) -> None:
        for name in ("size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--data.{name} must be at least 1, not {value}")
        if self.unreadable not in ("stop", "skip"):
            raise ValueError(f"--data.unreadable is stop or skip, not {self.unreadable!r}")

    def load(self, split: str = "train") -> Images:
        """The images of "train" or "test"; STL-10 also has "unlabeled". ValueError for a user's mistake."""
        splits = ("train", "test", "unlabeled") if self.name == "stl10" else ("train", "test")
        if split not in splits:
            raise ValueError(f"{self.name} has no split {split!r}; it has {', '.join(splits)}")
        images = self._open(split, None if split == "test" else self.limit)
        if len(images) > 1 and images.label is not None and images.label.unique().numel() == 1 < len(images.names):
            print(f"{self.name}: all {len(images)} {split} images are of one class", file=sys.stderr)
        return images

    def _open(self, split: str, limit: int | None) -> Images:
        root = Path(self.root).expanduser()
        match self.name:
            case "digits":
                if self.size not in (None, 8):
                    raise ValueError(
                        f"digits have 8 x 8 pixels, not {self.size}: take their own recipe, such as acl/digits, "
                        "and leave --data.size and --backbone.stem as they are"
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
        path = self._path()
        own = parquet if path.is_file() or any(path.glob("*.parquet")) else folder
        return gather(own(path), path, split, self.size, limit, self.unreadable, root / "cache")

    def _path(self) -> Path:
        if self.name == UNKNOWN:
            raise ValueError("which images these weights were trained on is not known here: name a set by --data")
        path = Path(self.name).expanduser()
        if not self.name or not path.exists():
            near = get_close_matches(self.name.lower().replace("-", "").replace("_", ""), KNOWN, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"no image set {self.name!r}: it is none of {', '.join(KNOWN)}, nor a path{hint}")
        if path.is_file() and path.suffix != ".parquet":
            raise ValueError(f"{path} is a file: a set is a folder of images, a Parquet file or a folder of them")
        return path
