"""The operations that a row's pre-training took, counted on one batch and multiplied: the same on every machine."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from unshaken.base.keys import Key
from unshaken.board.remake import options, usual_pretrain
from unshaken.board.rows import Row
from unshaken.data.images import Images
from unshaken.methods.method import Step
from unshaken.nets.embed import Network
from unshaken.options import parse
from unshaken.recipes.papers import recipe
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.feed import Feed, Place

BATCH = 16
"""Images of the batch that is counted."""


def pflop_of(row: Row) -> float | None:
    """Return 10^15 operations of pre-training: of views through the network, forwards and backwards, attacks included.

    None where a batch in the middle does not stand for all of them (coresets, savings), for what is no recipe of one
    stage, and where the number of images is not in the result.
    """
    told, usual = row.first.pretrain, usual_pretrain(row.method, row.first.pretrain.get("data", {}).get("name", ""))
    count = row.first.result["pretrain"].get("data", {}).get("images", {}).get("n")
    if usual is None or usual.get("type") != "Pretrain" or told.get("coreset") or told.get("savings") or not count:
        return None
    words = tuple(word for option in options(told, usual) for word in option.split())
    try:
        an_image, epochs = flop_an_image(usual["@name"], words)
    except ValueError:  # an option of another version
        return None
    return an_image * count * epochs / 1e15


@cache
def flop_an_image(name: str, words: tuple[str, ...]) -> tuple[float, int]:
    """Return the operations of one image in one epoch, and the epochs of the recipe."""
    one = parse(recipe(name), list(words), "unshaken board")
    assert isinstance(one, Pretrain)
    side, channels = one.data.size or one.backbone.stem, one.backbone.channels
    pixels = torch.randint(0, 256, (BATCH, channels, side, side), dtype=torch.uint8)
    images = Images(pixels, torch.arange(BATCH) % 10, tuple(map(str, range(10))), "train", "counted", "")
    step = step_of(one)
    label = images.label if one.method.labels == "own" else None
    if one.method.labels == "clusters":
        label = torch.stack([torch.arange(BATCH) % k for k in one.clusters], dim=-1)
    feed = Feed(images, one.views, one.strength, BATCH, one.epochs, Key(1) / "counted", label)
    middle = Place(one.epochs // 2, 0, 0)
    place, _, batch = next(itertools.islice(feed.after(middle), 1))
    with Counting() as counted:
        step(batch, feed.clock(place), feed.key / "step" / 0)["loss"].backward()
    return counted.flop / BATCH, one.epochs


class Counting(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products and convolutions, backwards too.

    torch's own FlopCounterMode counts by module, for which it puts hooks where an attack's gradients do not allow them.
    """

    flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flop += formula(*args, **(kwargs or {}), out_val=out)
        return out


def step_of(one: Pretrain) -> Step:
    """Return the method with new weights, and a teacher where it learns from one."""
    classes = one.clusters if one.method.labels == "clusters" else (10,) if one.method.labels == "own" else ()
    net = one.embedder(classes)
    if one.method.teacher == "given":
        net.teacher = Network(one.backbone.build(), torch.nn.Identity())
    elif one.method.teacher == "moving":
        net = replace(one, start=None).furnished(net, None, None)
    return Step(one.method, net)
