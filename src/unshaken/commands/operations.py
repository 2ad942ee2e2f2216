"""Count a pre-training's operations on small batches and multiply: alike on all machines."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.board.remake import options, usual_pretrain
from unshaken.board.rows import Row
from unshaken.coreset.selector import Selector, split
from unshaken.data.images import Images
from unshaken.methods.base import Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network
from unshaken.options import parse
from unshaken.recipes.catalog import recipe
from unshaken.recipes.lp_aff import LPAFF, Stage
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.first_network import first_network
from unshaken.train.batches import BatchStream, Position, end_of_epoch
from unshaken.train.selection_objective import objective_of

BATCH = 16
"""Images in the batch that is counted."""
CANDIDATES = 512
"""The most images on which a selection is counted; the count is in proportion to their number."""
COUNTED = Key(1) / "counted"


def pflop_of(row: Row) -> float | None:
    """Return the operations of pre-training in units of 10^15: forward and backward passes, attacks included.

    The pre-training of a teacher and k-means are not counted. Returns None for a recipe of another version, for a
    result without the number of images, and for selections that reuse an epoch's attacks.
    """
    found, usual = row.first.pretrain, usual_pretrain(row.method, row.first.pretrain.get("data", {}).get("name", ""))
    count = row.first.result["pretrain"].get("data", {}).get("images", {}).get("n")
    if usual is None or usual.get("type") != found.get("type") or not count:
        return None
    words = tuple(word for option in options(found, usual) for word in option.split())
    try:
        flop = flop_of(usual["@name"], words, count)
    except ValueError:  # an option of another version
        return None
    return None if flop is None else flop / 1e15


@cache
def flop_of(name: str, words: tuple[str, ...], count: int) -> float | None:
    """Return the operations of a recipe on `count` images."""
    one = parse(recipe(name), list(words), "unshaken board")
    if isinstance(one, LPAFF):
        return of_plusplus(one, count)
    if one.coreset is None:
        return sum(flop_an_image(one, epoch) * count for epoch in range(one.epochs))
    return None if one.coreset.recall else of_coresets(one, one.coreset, count)


def of_coresets(one: Pretrain, coreset: Selector, count: int) -> float:
    """Return the operations of all epochs, each on the images that it sees, and of the selections."""
    candidates = len(split(count, coreset.validation, COUNTED)[0])
    due = [epoch for epoch in range(one.epochs) if coreset.due(epoch)]
    seen = [coreset.budget(candidates) if due and epoch >= due[0] else candidates for epoch in range(one.epochs)]
    training = sum(flop_an_image(one, epoch) * images for epoch, images in enumerate(seen))
    return training + (len(due) * flop_a_selection(one, coreset, due[0], count) if due else 0.0)


def of_plusplus(one: LPAFF, count: int) -> float | None:
    """Return the operations of clustering's forward pass, of the probe and of the tuning.

    Returns None if the teacher is a file, whose network is not in the recipe.
    """
    try:
        backbone = recipe(one.teacher).backbone  # pyright: ignore[reportAttributeAccessIssue]
    except (ValueError, AttributeError):  # a file, or another ++
        return None
    look = counted(backbone, Network(backbone.build(), torch.nn.Identity()))
    return count * (look + sum(stage.epochs * of_stage(one, stage, backbone) for stage in (one.probe, one.tune)))


def counted(backbone: Backbone, net: Network) -> float:
    """Return the operations of one image through a network, forwards alone."""
    with torch.no_grad(), Counting() as found:
        net(images_of(backbone, backbone.image_size, BATCH).floats(slice(None)), "clean")
    return found.flop / BATCH


def of_stage(one: LPAFF, stage: Stage, backbone: Backbone) -> float:
    """Return the operations of one image in an epoch of a training on pseudo-labels."""
    encoder = backbone.build()
    step = Step(stage.method, Network(encoder, zero_classifier(encoder.features, one.clusters)))
    images = images_of(backbone, one.data.size or backbone.image_size, BATCH)
    feed = BatchStream(
        images, one.views, Constant(1.0), BATCH, stage.epochs, COUNTED, torch.arange(BATCH) % one.clusters
    )
    return an_image(step, feed, stage.epochs // 2)


def flop_an_image(one: Pretrain, epoch: int) -> float:
    """Return the operations of one image in an epoch. Epochs with as large images and as many steps take as many."""
    alike = [each for each in range(one.epochs) if level(one, each) == level(one, epoch)]
    return _an_image(one, alike[len(alike) // 2])


def level(one: Pretrain, epoch: int) -> tuple[float, float]:
    """Return how large images are in an epoch, and how many steps attacks take, as parts of the usual ones."""
    clock = end_of_epoch(epoch, one.epochs)
    return one.approximations.side(clock), one.approximations.steps(clock)


@cache
def _an_image(one: Pretrain, epoch: int) -> float:
    step = Step(one.method, network_of(one))
    step.policy = one.approximations.policy()
    return an_image(step, feed_of(one, BATCH, BATCH), epoch)


def an_image(step: Step, feed: BatchStream, epoch: int) -> float:
    """Return the operations of an update at the beginning of an epoch by its images: of replays the mean."""
    place = Position(epoch, 0, 0)
    how = (feed.strength(feed.clock(place)), feed.views_key(place), feed.side_fraction(epoch))
    batch = feed.make_batch(torch.arange(BATCH), *how)
    with Counting() as found:
        for _ in range(feed.replays):
            step(batch, feed.clock(place), feed.key / "step" / 0)["loss"].backward()
    return found.flop / feed.replays / BATCH


def flop_a_selection(one: Pretrain, coreset: Selector, epoch: int, count: int) -> float:
    """Return the operations of one selection: of all its looks at candidates and validation images."""
    n = min(count, CANDIDATES)
    step, feed = Step(one.method, network_of(one)), feed_of(one, n, one.batch_size)
    candidates, held = split(n, coreset.validation, COUNTED)
    with Counting() as found:
        problem = objective_of(
            step, feed, Position(epoch, 0, 0), candidates, held, COUNTED, coreset.batch_size, coreset.steps, None
        )
        coreset.select(problem, coreset.budget(len(candidates)), COUNTED)
    return found.flop * count / n


def feed_of(one: Pretrain, n: int, batch: int) -> BatchStream:
    """Return batches of images by chance, with labels where the method learns from some."""
    images = images_of(one.backbone, one.data.size or one.backbone.image_size, n)
    label = images.label if one.method.labels == "true" else None
    if one.method.labels == "clusters":
        label = torch.stack([torch.arange(n) % k for k in one.clusters], dim=-1)
    feed = BatchStream(images, one.views, one.strength, batch, one.epochs, COUNTED, label)
    return replace(feed, side=one.approximations.side, replays=one.approximations.replays)


def images_of(backbone: Backbone, side: int, n: int) -> Images:
    pixels = torch.randint(0, 256, (n, backbone.channels, side, side), dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 10, tuple(map(str, range(10))), "train", "counted", "")


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


def network_of(one: Pretrain) -> Network:
    """Return the network with new weights, and a teacher where the method learns from one."""
    classes = one.clusters if one.method.labels == "clusters" else (10,) if one.method.labels == "true" else ()
    net = first_network(one, classes)
    if one.method.teacher == "frozen":
        net.teacher = Network(one.backbone.build(), torch.nn.Identity())
    return net
