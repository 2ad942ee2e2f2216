"""Data sets of other libraries as one array: a torch Dataset, Hugging Face datasets, Pillow images, file lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unshaken.base.types import Int, UInt8
from unshaken.data.arrays import labels_of, pixels_of
from unshaken.data.decode import fitted, picture, upright_rgb
from unshaken.data.image_digests import image_digests

IMAGE_KEYS = ("image", "img", "pixel_values", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "y")
"""The names under which an item that is a dictionary has its image and its label; the first one that is there."""
MOST_BYTES = 8 * 2**30
"""A set with more bytes of pixels has to be read from files, not from objects in memory."""


class Converted(NamedTuple):
    """Images and labels as tensors.

    digests  the digest of each image before it was resized; None: those of `pixels`
    names    the names of the classes, where the set knows them
    files    the file of each image, where there is one
    """

    pixels: UInt8[Tensor, "N C H W"]
    label: Int[Tensor, "N"] | None
    digests: Int[Tensor, "N"] | None = None
    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def convert(x: Any, y: Any = None, size: int | None = None) -> Converted:
    """Convert images of any of these kinds, and their labels, to tensors; a set with labels of its own may have no `y`.

    size  resize the shorter side to this many pixels and cut out the centre; None: all images have the same size
    """
    if isinstance(x, Mapping):
        raise ValueError(f"these are several sets ({', '.join(map(str, list(x)[:4]))}): choose one, such as x['train']")
    if hasattr(x, "batch_sampler") and hasattr(x, "dataset"):
        raise ValueError("this is a DataLoader, whose order and batches are not needed: give its .dataset")
    if _is_files(x):
        return _with_labels(_from_files([Path(each) for each in x], size), y)
    if _is_items(x):
        return _with_labels(_from_items(x, size), y)
    return _with_labels(_resized(pixels_of(x), size), y)


def _is_files(x: Any) -> bool:
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(isinstance(each, (str, Path)) for each in x)


def _is_items(x: Any) -> bool:
    """Return whether x has images as items: a data set, or a list of Pillow images."""
    if isinstance(x, (Tensor, np.ndarray)) or hasattr(x, "__array_interface__"):
        return False
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and isinstance(x[0], Image.Image)
    if hasattr(x, "__getitem__") and hasattr(x, "__len__"):
        return True
    if hasattr(x, "__iter__"):
        raise ValueError(f"a {type(x).__name__} has no length: give a data set with a length, whose items are numbered")
    return False


def _with_labels(found: Converted, y: Any) -> Converted:
    if y is not None:
        return found._replace(label=labels_of(y, len(found.pixels)))
    if found.label is not None and len(found.label) and bool((found.label == -1).all()):
        return found._replace(label=None)  # torchvision's way to say that there are none
    return found


def _from_files(files: list[Path], size: int | None) -> Converted:
    """Decode image files, as those of a folder: to RGB, with the centre cut out."""
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"there is no file {missing[0]} ({len(missing)} of {len(files)} are missing)")
    if size is None:
        sizes = {_size(file) for file in files[:64]}
        if len(sizes) > 1 or len({*next(iter(sizes))}) > 1:
            raise ValueError("the files are not squares of one size: say what size to make them, such as size=32")
        size = next(iter(sizes))[0]
    found = []
    for file in files:
        try:
            found.append(picture(file, size))
        except Exception as error:  # whatever Pillow raises
            raise ValueError(f"{file} cannot be read as an image ({' '.join(str(error).split())})") from None
    digests = torch.from_numpy(np.array([each.digest for each in found], np.uint64).view(np.int64))
    pixels = torch.from_numpy(np.stack([each.pixels for each in found]))
    return Converted(pixels, None, digests, files=tuple(file.name for file in files))


def _size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.size
    except Exception as error:  # whatever Pillow raises
        raise ValueError(f"{file} cannot be read as an image ({' '.join(str(error).split())})") from None


def _from_items(x: Any, size: int | None) -> Converted:
    """Read the items of a data set: images, (image, label), or dictionaries with an image."""
    if not len(x):
        raise ValueError(f"this {type(x).__name__} has no images")
    first, again = _image_of(x[0]), _image_of(x[0])
    if not np.array_equal(np.asarray(first), np.asarray(again)):
        raise ValueError(
            f"an item of this {type(x).__name__} is another image whenever it is read: leave random transforms out, "
            "for the recipe draws the views"
        )
    images, labels, total = [], [], 0
    for item in _items(x):
        image, label = _image_of(item), _label_of(item)
        images.append(_array(image, size))
        labels.append(label)
        total += images[-1].nbytes
        if total > MOST_BYTES:
            raise ValueError(
                f"the first {len(images):,} images take {total / 2**30:.0f} GB: write so large a set as a folder of "
                "files or as Parquet files, and name it by DataSource"
            )
    channels = {each.shape[0] for each in images}
    if channels == {1, 3}:
        images = [np.broadcast_to(each, (3, *each.shape[1:])) for each in images]
    shapes = {each.shape for each in images}
    if len(shapes) > 1:
        raise ValueError(f"the images have {len(shapes)} sizes: say what size to make them, such as size=32")
    known = all(label is not None for label in labels)
    label = labels_of(np.array(labels), len(images)) if known else None
    return _resized(pixels_of(np.stack(images)), size)._replace(label=label, names=_class_names(x) if known else ())


def _items(x: Any) -> Iterator[Any]:
    for index in range(len(x)):
        yield x[index]


def _image_of(item: Any) -> Any:
    """Return the image of an item."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        if key is None:
            raise ValueError(f"an item has {', '.join(map(str, item))}, and no image under {', '.join(IMAGE_KEYS)}")
        return item[key]
    image = item[0] if isinstance(item, (tuple, list)) and len(item) else item
    if not isinstance(image, (Image.Image, np.ndarray, Tensor)):
        raise ValueError(f"an item begins with a {type(image).__name__}: an image is a Pillow image, array or tensor")
    return image


def _label_of(item: Any) -> int | None:
    """Return the label of an item: a whole number; None if it has none."""
    if isinstance(item, Mapping):
        value = next((item[key] for key in LABEL_KEYS if key in item), None)
    else:
        value = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
    if isinstance(value, (Tensor, np.generic, np.ndarray)):
        values = np.asarray(value).reshape(-1).tolist()
        value = values[0] if len(values) == 1 else None
    return value if isinstance(value, int) else None


def _array(image: Any, size: int | None) -> np.ndarray:
    """Return an image as (C H W), of the type that it has."""
    if isinstance(image, Image.Image):
        values = np.asarray(image if image.mode == "L" else upright_rgb(image))
    else:
        values = np.asarray(image)
        if values.ndim == 3 and values.shape[0] in (1, 3):
            return values
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise ValueError(f"an image has the shape {np.asarray(image).shape}, and not (H, W), (H, W, C) or (C, H, W)")
    return values if size is None else _squares(values[None], size)[0]


def _class_names(x: Any) -> tuple[str, ...]:
    """Return the class names that torchvision's sets have as `classes`, and Hugging Face's in the label's feature."""
    features = getattr(x, "features", None)
    if isinstance(features, Mapping):
        names = next((getattr(features[key], "names", None) for key in LABEL_KEYS if key in features), None)
    else:
        names = getattr(x, "classes", None)
    return tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) else ()


def _resized(pixels: UInt8[Tensor, "N C H W"], size: int | None) -> Converted:
    if size is None or pixels.shape[2:] == (size, size):
        return Converted(pixels, None)
    digests = torch.from_numpy(image_digests(pixels.numpy()).view(np.int64))
    return Converted(torch.from_numpy(_squares(pixels.numpy(), size)), None, digests)


def _squares(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side of uint8 images (N C H W) to `size`, bicubic and antialiased, and cut out the centre."""
    channels = pixels.shape[1]
    rgb = np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:])).transpose(0, 2, 3, 1)
    return np.stack([fitted(Image.fromarray(np.ascontiguousarray(each)), size)[:channels] for each in rgb])
