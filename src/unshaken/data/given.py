"""Images that a run was given in Python: its recipe names them by their digest, and holds them while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from unshaken.base.serialize import UNSAVED
from unshaken.data.images import Images


@dataclass(frozen=True)
class GivenImages:
    """Images of a user's own program. Only their digest is saved: to resume the run, give equal images again."""

    digest: str
    """The digest of all pixels and labels: equal images name the same run."""
    images: Images | None = field(default=None, repr=False, compare=False, metadata=UNSAVED)
    """The images; None in a recipe that was read from a file."""

    @classmethod
    def of(cls, data: Any) -> tuple[GivenImages, str]:
        """Take the images of anything that `Images.of` reads, and return them with the set's name."""
        if not isinstance(data, Images):
            data = Images.of(*data) if isinstance(data, tuple) and len(data) == 2 else Images.of(data)
        height, width = data.pixels.shape[2:]
        if height != width:
            raise ValueError(
                f"the images are {height} x {width} pixels: Images.of(..., size={min(height, width)}) "
                "makes squares of them"
            )
        return cls(data.digest, data), data.name

    def load(self, name: str, split: str, limit: int | None) -> Images:
        """Return the images. ValueError if they are not here, or if the test images are asked for."""
        if split == "test":
            raise ValueError(
                f"{name} was given in Python, and has no test images: give those too, evaluate(run, images)"
            )
        if self.images is None:
            raise ValueError(
                f"{name} was given in Python and is in no file: give the images again, such as data=images, or name "
                "a set by --data"
            )
        return replace(self.images[:limit] if limit else self.images, name=name, split=split)
