"""Loading the images of a run at the network's size, checking and splitting them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unshaken.data.image_digests import HOLDOUT, in_split
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.nets.backbone import Backbone
from unshaken.nets.resnet import SMALL


def load_images(source: DataSource, split: str, backbone: Backbone) -> Images:
    """Load a split at the side that the network reads, unless the source names another size.

    Raises ValueError if the network cannot read the images.
    """
    images = replace(source, size=source.size or backbone.image_size).load(split)
    if source.given is not None and (side := images.pixels.shape[-1]) != backbone.image_size:
        print(
            f"note: {images.name} has images of {side} pixels, and the network is made for {backbone.image_size}: they "
            f"are used as they are; Images.of(..., size={backbone.image_size}) resizes them",
            file=sys.stderr,
        )
    return check_images_fit(images, backbone)


def load_labelled(source: DataSource, backbone: Backbone, holdout: int = 0, held_out: bool = False) -> Images:
    """Load the labelled training images without the held-out ones, or only the held-out ones.

    holdout   hold out one of this many images; 0: none
    held_out  return the held-out images
    """
    images = load_images(source, "train", backbone)
    if images.label is None:
        raise ValueError(
            f"{source.name} has no labels{f' ({images.reason})' if images.reason else ''}, and fine-tuning "
            "needs them; name a labelled set by --data"
        )
    if len(images.names) < 2:
        raise ValueError(f"{source.name} has one class, {images.names[0]!r}: a classifier needs at least two")  # pyright: ignore[reportGeneralTypeIssues]
    if held_out and not holdout:
        raise ValueError("this run has no held-out images; fine-tune with --holdout 10, for example")
    if not holdout:
        return images
    aside = source.holdout_mask(images, holdout, HOLDOUT)
    if held_out and not aside.any():
        raise ValueError(f"--holdout {holdout} holds out none of {len(images)} images: choose a smaller number")
    rows = (aside if held_out else ~aside).nonzero()[:, 0]
    return replace(images[rows], split="held-out" if held_out else "train")


def hold_out(images: Images, every: int) -> tuple[Images, Images]:
    """Divide unlabelled training images into those to train on, and about one in `every`, chosen by its content.

    Copies of an image are on the same side. 0 holds out none.
    """
    if not every:
        return images, images[:0]
    aside = torch.from_numpy(in_split(images.image_digests.numpy().view(np.uint64), every, HOLDOUT))
    return images[(~aside).nonzero()[:, 0]], replace(images[aside.nonzero()[:, 0]], split="held-out")


def check_images_fit(images: Images, backbone: Backbone) -> Images:
    """Return the images. ValueError if the network cannot read them."""
    channels, side = images.pixels.shape[1], images.pixels.shape[-1]
    if channels != backbone.channels:
        raise ValueError(
            f"{images.name} has {channels} channel(s) but the network reads {backbone.channels}; "
            "set --backbone.channels (and --backbone.mean, --backbone.std, one per channel)"
        )
    if backbone.image_size > SMALL and side < 33 and not backbone.own:
        raise ValueError(
            f"images of {side} pixels are too small for a stem for {backbone.image_size}; set --backbone.image-size 32"
        )
    if backbone.variant is not None and side % backbone.variant.step:
        raise ValueError(
            f"images of {side} pixels are no whole number of patches of {backbone.variant.step} pixels; set "
            f"--data.size {side // backbone.variant.step * backbone.variant.step or backbone.variant.step}"
        )
    return images


def image_identity(images: Images) -> dict[str, Any]:
    """Return the name, split, number and digest of images, for results and run directories."""
    return {"name": images.name, "split": images.split, "n": len(images), "digest": images.digest}


def slug(source: DataSource) -> str:
    """Return the name of a data set in a form that fits a directory's name."""
    word = Path(source.name).stem or "images"
    return "".join(c if c.isalnum() else "-" for c in word.lower()).strip("-")[:32] or "images"
