"""Time and memory per image in a small set and in a large one: order, views, digest, log, selection.

The images are random, 32 x 32 x 3; a million of them take 3 GB. Training steps are not measured, because their time
does not depend on the number of images. Views and saved attacks are timed on a sample of an epoch's mini-batches, which
are scattered over the entire set.

The selection is that of the recipe for ImageNet, on random gradients and features: only the search, without the eight
or more passes of each candidate through the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

import unshaken
from bench.clock import paired, tell, timed
from bench.memory import peak
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.coreset.gradients import Gradients, Layer, Matrices, Theta, concatenate
from unshaken.coreset.objective import SelectionObjective
from unshaken.coreset.selector import split
from unshaken.data.images import Images
from unshaken.losses.divergence import representational_divergence
from unshaken.nets.network import seeded
from unshaken.train.attack_cache import AttackCache
from unshaken.train.batches import BatchStream
from unshaken.train.layer_gradients import linear_layers
from unshaken.train.selection_objective import draw_mini_batches
from unshaken.transforms.views import CropFlip, SimCLRViews, Views

BATCH, SAMPLE = 512, 8
KEY = Key(0) / "scaling"
WIDTH = 640


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Compare; ratio: time per image of order and SimCLR's views in the second set / in the largest. 1 is no growth,
    less is growth."""
    counts = (500, 1000, 2000) if quick else (10**3, 10**4, 10**5, 10**6)
    shape = (counts[-1], 3, 32, 32)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=KEY.on("cpu"))
    parts: dict[int, dict[str, list[float]]] = {n: {} for n in counts}
    for k in range(rounds + 1):
        for n in counts:
            for part, seconds in once(Images(pixels[:n]), k).items():
                parts[n].setdefault(part, [])
                if k:  # the first is to warm up
                    parts[n][part].append(seconds)
        tell(f"round {k} of {rounds}")
    feeds = {n: [1e3 * (a + b) for a, b in zip(parts[n]["order"], parts[n]["simclr"], strict=True)] for n in counts}
    del pixels
    return (
        paired({"small": feeds[counts[1]], "large": feeds[counts[-1]]}, "large", "small")
        | {"images": counts, "unit": "processor seconds of a thousand images' order and SimCLR's two views"}
        | {"us": {n: {part: round(1e6 * median(each), 3) for part, each in parts[n].items()} for n in counts}}
        | {"selection": {n: selection(n) for n in counts}}
    )


def once(images: Images, epoch: int) -> dict[str, float]:
    """Measure processor seconds per image for each part; for the log, which waits for the disk, wall-clock seconds."""
    order, batches = timed(lambda: feed(images, SimCLRViews()).batches(epoch))
    digest, _ = timed(lambda: Images(images.pixels).digest)
    sample = batches[:: -(-len(batches) // SAMPLE)]
    count = sum(len(index) for index in sample)
    seconds = {"order": order / len(images), "digest": digest / len(images)}
    for name, views in (("simclr", SimCLRViews()), ("cropflip", CropFlip())):
        seconds[name] = timed(lambda views=views: looked_at(feed(images, views), sample))[0] / count
    with TemporaryDirectory() as folder:
        attacks, (x, x_adv) = AttackCache(Path(folder) / "attacks", len(images)), torch.rand(2, 2, BATCH + 1, 3, 32, 32)
        began = time.perf_counter()
        for index in sample:
            attacks.write(index, x[:, : len(index)], x_adv[:, : len(index)])
        return seconds | {"notes": (time.perf_counter() - began) / count}


def feed(images: Images, views: Views) -> BatchStream:
    return BatchStream(images, views, Constant(1.0), BATCH, 100, KEY)


def looked_at(feed: BatchStream, batches: Sequence[Tensor]) -> None:
    for b, index in enumerate(batches):
        feed.make_batch(index, 1.0, KEY / b)


def selection(n: int) -> dict[str, float]:
    """Measure the seconds per image of the search without the gradients, and the peak memory of both."""
    megabytes, (seconds, picked) = peak(prepared, n)
    assert len(picked.unique()) == len(picked)
    result = {"search_us": round(1e6 * seconds / n, 3), "mb": round(megabytes), "picked": len(picked)}
    tell(f"selection of {n}: {result}")
    return result


def prepared(n: int) -> Callable[[], tuple[float, Tensor]]:
    selector = unshaken.recipe("acl-rcs/imagenet32").coreset

    def work() -> tuple[float, Tensor]:
        def select() -> tuple[Chance, Tensor]:
            x, u = split(n, selector.validation, KEY)
            problem = Chance(tuple(one.index for one in draw_mini_batches(x, BATCH, 1.0, KEY)), len(u))
            return problem, selector.select(problem, selector.budget(len(x)), KEY)

        seconds, (problem, picked) = timed(select)
        return seconds - problem.seconds, picked

    return work


class Chance(SelectionObjective):
    """Random gradients and features of the head in the recipe for ImageNet; it counts its own time."""

    def __init__(self, batches: tuple[Tensor, ...], held: int) -> None:
        self.batches, self.seconds = batches, 0.0
        head = unshaken.recipe("acl-rcs/imagenet32").head
        self.head = seeded(lambda: head.build(WIDTH), KEY).eval()
        self.linear = linear_layers(self.head)
        self.theta = {
            f"{layer}.{name}": p.detach() for layer, one in self.linear.items() for name, p in one.named_parameters()
        }
        self.f_adv, self.f = torch.rand((2, held, WIDTH), generator=(KEY / "features").on("cpu"))

    def gradients(self, batches: Sequence[int], granularity: str) -> Gradients:
        self.seconds += (made := timed(lambda: self._gradients(batches)))[0]
        return made[1]

    def _gradients(self, batches: Sequence[int]) -> Gradients:
        """Compute the gradients mini-batch by mini-batch, then join them, as for a network."""
        biased = frozenset(name for name, one in self.linear.items() if one.bias is not None)
        found = [{name: self._layer(name, name in biased, b) for name in self.linear} for b in batches]
        sizes = tuple(len(self.batches[b]) for b in batches)
        layers = {name: concatenate([part.pop(name) for part in found]) for name in self.linear}
        return Gradients(torch.cat([self.batches[b] for b in batches]), sizes, layers, biased)

    def _layer(self, name: str, biased: bool, b: int) -> Layer:
        one = self.linear[name]
        shape = (1, one.out_features, one.in_features + biased)
        return Matrices(torch.randn(shape, generator=(KEY / name / b).on("cpu")))

    def validation(self, theta: Theta, distance: Any, attack: Any) -> Callable[[Theta], Tensor]:
        z = lambda f, theta: functional_call(self.head, theta, (f,))  # noqa: E731
        return lambda theta: representational_divergence(z(self.f_adv, theta), z(self.f, theta), distance)

    def losses(self) -> Tensor:
        raise NotImplementedError("a search by gradients asks for none")

    features = distances = input_gradients = losses
