"""Processes that share each batch train as one does: every recipe, in float64, with its attack, for five updates."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import unshaken
from processes import launched_together
from unshaken.attacks.pgd import PGD
from unshaken.base.distributed import processes
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.types import Batch
from unshaken.compute.runtime import Runtime
from unshaken.methods.base import Method, Step
from unshaken.methods.supervised import AFF
from unshaken.nets.network import Network
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.attack_policy import replace_attacks
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Execution, Loop
from unshaken.train.signals import SignalGuard

N, UPDATES = 7, 5
NAMES = [name for name in RECIPES if isinstance(unshaken.recipe(f"{name}/digits"), Pretrain)]
ODD = {"aff": AFF(natural="adv", target="clean"), "restarts": AFF(PGD(restarts=2, init="gaussian"))}
"""A route that is in no loss; and attacks with restarts, whose loss is that of each image."""
CASES = [*NAMES, *ODD]
FLOAT = torch.Tensor.float


class Doubled(BatchStream):
    """Batches in float64."""

    def make_batch(self, *given: Any, **how: Any) -> Batch:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", FLOAT)
            batch = super().make_batch(*given, **how)
        return replace(batch, views=batch.views.double(), image=batch.image.double())


@pytest.fixture(autouse=True)
def nothing_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library takes float32, float64 stays."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def start(name: str) -> tuple[Step, BatchStream]:
    """A method with its network and images, as a run has them before its first step; attacks make two steps."""
    recipe = unshaken.recipe(f"{'trades' if name in ODD else name}/digits")
    assert isinstance(recipe, Pretrain)
    method: Method = replace_attacks(ODD.get(name, recipe.method), lambda attack: replace(attack, steps=2))
    images = unshaken.DataSource("digits", limit=4 * N).load("train")
    counts = {"clusters": (2, 3), "true": (10,), "": ()}[method.labels]
    label = torch.stack([images.label % count for count in counts], 1) if counts else None
    label = images.label if method.labels == "true" else label
    if name in ODD:
        recipe = replace(recipe, method=method)
    net = recipe.build_network(counts)
    if method.teacher == "frozen":
        net.teacher = Network(copy.deepcopy(unshaken.recipe("simclr/digits").build_network().encoder), nn.Identity())
    elif method.teacher == "momentum":
        net.teacher = copy.deepcopy(net)
    feed = Doubled(images, recipe.views, Constant(1.0), N, 3, Key(1), label)
    return Step(method, net.double()), feed


def trained(name: str) -> dict[str, list[torch.Tensor]]:
    """Five updates by SGD: the terms, the gradients, and at the end everything that the step holds."""
    step, feed = start(name)
    runtime = Runtime("cpu")
    fabric = runtime.open("together")
    runtime.prepare(step.net)
    for part in step.net.modules():
        if isinstance(part, Network):
            part.computation.folder.precision = torch.float64
    rule = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], 0.05, momentum=0.9)
    run = SimpleNamespace(path=Path(name), spend=lambda *_: None)
    loop = Loop(step, feed, rule, Execution(run, fabric), Position(), SignalGuard(), lambda *_: None)
    found: dict[str, list[torch.Tensor]] = {"terms": [], "gradients": []}
    keep = loop.stepper.step

    def kept(*given: Any, **how: Any) -> Any:
        grads = [p.grad.flatten() for p in step.parameters() if p.grad is not None]
        found["gradients"].append(torch.cat(grads).clone())
        return keep(*given, **how)

    loop.stepper.step = kept
    for position, _, batch in some(feed):
        loop._update(batch, feed.clock(position), position, 0.05)
        found["terms"].append(torch.stack([value.double() for value in loop.meter.terms.values()]))
    return found | {"state": [value.double() for value in step.state_dict().values()]}


def some(feed: BatchStream) -> Iterator[tuple]:
    yield from (each for each, _ in zip(feed.after(Position()), range(UPDATES), strict=False))


def apart(one: dict[str, list[torch.Tensor]], other: dict[str, list[torch.Tensor]]) -> float:
    """The largest difference, relative to the largest value of the same kind."""
    assert [len(values) for values in one.values()] == [len(values) for values in other.values()]
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1))
        for kind in one
        for a, b in zip(one[kind], other[kind], strict=True)
        if a.numel()
    )


def compared(alone: dict[str, dict], rank: int) -> None:
    for name, expected in alone.items():
        off = apart(trained(name), expected)
        print(f"{name} {off:.1e}")
        assert off < 1e-10, f"{name}: {off:.1e} apart"
    assert processes().count > 1


@pytest.mark.parametrize(("count", "names"), [(2, CASES), (4, ["acl-air", "a-infonce", "dynacl"])])
def test_processes_train_as_one(count, names):
    """Terms, gradients, statistics and weights; a batch of seven images, and processes of different numbers."""
    launched_together(count, partial(compared, {name: trained(name) for name in names}))
