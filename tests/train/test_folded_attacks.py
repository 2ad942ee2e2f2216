"""Whoever attacks a network in training attacks it with its batch norms folded: all recipes, all fine-tuning."""

import pytest
import torch
from test_selection_objective import CLOCK, METHODS, made

from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.types import Batch
from unshaken.compute.computation import FrozenComputation
from unshaken.compute.runtime import Runtime
from unshaken.methods.autolora import AutoLoRa
from unshaken.methods.base import Method, Step
from unshaken.methods.supervised import AFF, ALF
from unshaken.nets.lora import with_lora
from unshaken.train.attack_policy import attacking
from unshaken.train.batches import BatchStream, Position


def attacked_folded(step: Step, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each attack in a step, whether the network under it is one that computes folded, and asks for no gradient."""
    seen, net = [], step.net

    def attack(self: PGD, model, x: torch.Tensor, y: None, key: Key) -> torch.Tensor:
        folded = isinstance(net.computation, FrozenComputation)
        seen.append(folded and not any(p.requires_grad for p in net.parameters()))
        return x

    Runtime("cpu").prepare(net)
    monkeypatch.setattr(PGD, "__call__", attack)
    step(batch, CLOCK, Key(0))
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_in_pre_training(name, monkeypatch):
    scene = made(name)
    feed = BatchStream(scene.images, scene.views, Constant(0.7), 8, 2, Key(1), scene.label)
    _, _, batch = next(feed.after(Position()))
    assert set(attacked_folded(scene.step, batch, monkeypatch)) == ({True} if attacking(scene.step.method) else set())


@pytest.mark.parametrize("method", [ALF(), AFF(), AutoLoRa()], ids=lambda method: type(method).__name__)
def test_in_fine_tuning(method: Method, monkeypatch):
    scene = made("acl")
    net = scene.step.net
    if isinstance(method, AutoLoRa):
        with_lora(net.encoder, Key(0))
    image = scene.images.floats(slice(0, 8))
    batch = Batch(image[None], image, torch.arange(8), torch.arange(8))
    assert attacked_folded(Step(method, net), batch, monkeypatch) == [True]
