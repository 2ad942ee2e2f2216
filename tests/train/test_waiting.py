"""No step waits for its device: every method is taken to a device that has no values, where reading one fails.

PyTorch's "meta" tensors have a shape, a type and a device, and nothing else. Nor may anything be brought to the device
within a step: to copy from ordinary memory is to wait too.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from test_selection_objective import METHODS, made
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import unshaken
from unshaken.attacks.ball import L2
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.methods.autolora import AutoLoRa
from unshaken.methods.base import Method, Step
from unshaken.methods.supervised import AFF, ALF, SLF
from unshaken.nets.lora import with_lora
from unshaken.nets.network import Network
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Execution, Loop
from unshaken.train.optim import LARS, SGD, Optimizer
from unshaken.train.run_dir import Run
from unshaken.transforms.views import CropFlip
from variants import variants

THERE = torch.device("meta")


class Apart(TorchDispatchMode):
    """Fails where an operation meets tensors of both devices; what is moved from one to the other is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        kinds = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)}
        if len(kinds) > 1:
            assert func.overloadpacket.__name__ in {"_to_copy", "copy_"}, f"{func} of tensors here and there"
            self.moved.append(out.numel())
        return out


class Elsewhere(torch.Generator):
    device = THERE


@pytest.fixture(autouse=True)
def others(monkeypatch):
    """A device without values has none; any will do. Nor can labels be checked there, as once they are before."""
    monkeypatch.setattr(Images, "_check_labels", lambda *_: None)
    monkeypatch.setattr(Key, "on", lambda key, device: Elsewhere() if str(device) == "meta" else torch.Generator())


def trained(
    folder, step: Step, feed: BatchStream, optimizer: Optimizer, runtime: Runtime = Runtime()
) -> tuple[list[int], int]:
    """Two epochs of a step each. Return how many numbers each copy to the device moved, and the copies before."""
    step = step.to(THERE)
    runtime.prepare(step.net)
    fabric = SimpleNamespace(setup=lambda *both: both, backward=lambda loss: loss.backward(), device=THERE)
    with Run(folder, {}, {}) as run, Apart() as apart:
        feed = feed.to(THERE)
        before = len(apart.moved)
        halt, advance = SimpleNamespace(code=None), None
        course = Loop(step, feed, optimizer.build(step), Execution(run, fabric, 1e9), Position(), halt, advance)
        for _, (place, _, batch) in zip(range(2), feed.after(Position()), strict=False):
            course._update(batch, feed.clock(place), place, 0.1)
            assert course.meter.terms["loss"].device == THERE
        with pytest.raises(RuntimeError, match="meta"):
            course.meter.read(feed.clock(place))
    return apart.moved, before


def fed(some: Images, label: Tensor | None, views) -> BatchStream:
    return BatchStream(some, views, Constant(0.7), 64, 9, Key(1), label)


@pytest.mark.parametrize("name", variants(METHODS, ("acl", "deacl")))
def test_no_step_of_pre_training_waits(tmp_path, name):
    """Pixels and labels are moved once, and of each epoch its order."""
    scene = made(name)
    moved, before = trained(tmp_path, scene.step, fed(scene.images, scene.label, scene.views), LARS())
    assert moved[before:] == [64, 64]


def tuned(method: Method) -> tuple[Step, BatchStream]:
    recipe, digits = unshaken.recipe("acl/digits"), unshaken.DataSource("digits").load("train")[:64]
    encoder = copy.deepcopy(recipe.build_network().encoder)
    if isinstance(method, AutoLoRa):
        encoder = with_lora(encoder, Key(0))
    step = Step(method, Network(encoder, nn.Linear(encoder.features, 10)))
    return step, fed(digits, digits.label, CropFlip(padding=1))


@pytest.mark.extra
def test_nor_does_one_that_spares_memory(tmp_path):
    scene = made("acl")
    feed = fed(scene.images, scene.label, scene.views)
    moved, before = trained(tmp_path, scene.step, feed, LARS(), Runtime(at_most=24))
    assert moved[before:] == [64, 64]


TUNING = [SLF(), ALF(), AFF(), AutoLoRa(), ALF(PGD(L2(0.5), steps=2, restarts=2))]


@pytest.mark.parametrize("method", variants(TUNING, (AFF(),)), ids=repr)
def test_no_step_of_fine_tuning_waits(tmp_path, method):
    moved, before = trained(tmp_path, *tuned(method), SGD())
    assert moved[before:] == [64, 64]
