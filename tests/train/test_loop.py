"""The loop's keys and its watch over losses."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tiny import RECIPE, STEPS

import unshaken
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock, Constant
from unshaken.compute.runtime import Runtime
from unshaken.methods.base import Method, Step
from unshaken.nets.checkpoint import digest, read_tensors
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Execution, Meter, training
from unshaken.train.optim import SGD
from unshaken.train.run_dir import Run
from variants import variants


def _training(step, feed, run, fabric):
    return training(step, feed, RECIPE.optimizer, Execution(run, fabric, save_every=1e9, quiet=True))


def test_a_loss_that_heals_was_still_lost(tmp_path):
    """One NaN between two readings is seen, though the last loss is a number."""
    with Run(tmp_path, {}, {}) as run:
        meter = Meter(run)
        for value in (1.0, float("nan"), 1.0):
            meter.note({"loss": torch.tensor(value)}, 2)
        with pytest.raises(ValueError, match="no longer a finite number"):
            meter.read(Clock(2, 0, 1.0, 1))


def test_a_weight_that_is_no_number_is_not_saved(tmp_path):
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = torch.inf
    with Run(tmp_path, {}, {}) as run, pytest.raises(ValueError, match="weight is no longer finite"):
        run.save(Position(), net, torch.optim.SGD(net.parameters()), torch.device("cpu"))
    assert not run.checkpoint.exists()


@dataclass(frozen=True)
class Told(Method):
    """Notes what it is given, and learns nothing much."""

    routes: ClassVar = ("clean",)
    keys: ClassVar = []
    seen: ClassVar = []

    def loss(self, h, batch, clock, key):
        self.keys.append(key)
        self.seen.append(batch.views)
        return {"loss": h(batch.views, "clean").square().mean()}


def test_each_step_draws_anew(tmp_path):
    """No two steps share a key, and an image's two views of two epochs are four images."""
    Told.keys.clear()
    Told.seen.clear()
    unshaken.pretrain(replace(RECIPE, method=Told()), unshaken.Workspace(tmp_path, quiet=True))
    assert len(set(Told.keys)) == STEPS
    parts = [view for views in Told.seen for view in views.flatten(0, 1)]
    assert len({view.numpy().tobytes() for view in parts}) == len(parts)


def learned(folder: Path, until: tuple[int, ...]) -> str:
    """A hundred digits in legs that end where so many updates have been made; the digest of what is learned."""
    images = RECIPE.data.load("train")
    key = Key(RECIPE.seed)
    feed = BatchStream(images, RECIPE.views, RECIPE.strength, RECIPE.batch_size, RECIPE.epochs, key)
    step, fabric = Step(RECIPE.method, RECIPE.build_network()), Runtime(device="cpu").open()
    with (
        Run(folder, {}, {}) as run,
        training(step, feed, RECIPE.optimizer, Execution(run, fabric, 1e9, True)) as course,
    ):
        for end in until:
            course.go(RECIPE.lr, None if end == STEPS else end)
            assert course.position.step == end
            assert read_tensors(run.checkpoint)[1]["place"]["step"] == end
        return digest(step)


def logged(folder: Path) -> list[dict]:
    """The log but for its speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("images_per_s", "checksum")} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[str, list[dict]]:
    folder = tmp_path_factory.mktemp("whole")
    return learned(folder, (STEPS,)), logged(folder)


LEGS = [[1, STEPS], [4, 8, STEPS], [3, 4, 5, 11, STEPS], [*range(1, STEPS + 1)]]


@pytest.mark.parametrize("until", variants(LEGS, LEGS[1:3]), ids=str)
def test_legs_end_where_the_whole_does(tmp_path, whole, until):
    """With a checkpoint at the end of each, and its log."""
    assert (learned(tmp_path, until), logged(tmp_path)) == whole


def test_the_end_of_a_leg_is_accounted_for(tmp_path, monkeypatch):
    """A checkpoint that takes a tenth of a second, at the end of each of three legs."""
    save, seconds = Run.save, []
    monkeypatch.setattr(Run, "save", lambda *given: (time.sleep(0.1), save(*given)))
    monkeypatch.setattr(Run, "spend", lambda run, part, took: seconds.append(took))
    learned(tmp_path, (1, 2, STEPS))
    assert sum(took > 0.09 for took in seconds) >= 3


def test_legs_go_on_in_another_process(tmp_path, whole):
    """What was one `training` may be several: each finds where the last ended."""
    learned(tmp_path / "legs", (3,))
    learned(tmp_path / "legs", (5, 8))
    assert learned(tmp_path / "legs", (9, STEPS)) == whole[0]


def test_what_happens_to_the_network_between_legs_counts(tmp_path):
    """It is trained on from there, and saved with the next leg."""
    images, fabric = RECIPE.data.load("train"), Runtime(device="cpu").open()
    feed = BatchStream(images, RECIPE.views, RECIPE.strength, RECIPE.batch_size, RECIPE.epochs, Key(1))
    step = Step(RECIPE.method, RECIPE.build_network())
    with (
        Run(tmp_path, {}, {}) as run,
        training(step, feed, RECIPE.optimizer, Execution(run, fabric, 1e9, True)) as course,
    ):
        course.go(Constant(0.0), 2)
        mark = step.net.encoder.backbone.conv1.weight
        with torch.no_grad():
            mark.fill_(0.5)
        course.go(Constant(0.0), 3)
        saved = read_tensors(run.checkpoint)[0]["net/net.encoder.backbone.conv1.weight"]
    assert torch.equal(saved, torch.full_like(saved, 0.5))
    assert torch.equal(mark, saved)


def test_a_leg_leads_onward(tmp_path):
    with pytest.raises(AssertionError):
        learned(tmp_path, (3, 3))


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e9])
def test_a_gradient_is_no_longer_than_its_largest_norm(tmp_path, clip):
    """SGD of rate 1 without momentum moves by the gradient itself."""
    recipe = replace(RECIPE, optimizer=SGD(momentum=0.0, weight_decay=0.0), lr=Constant(1.0), clip=clip)
    images = recipe.data.load("train")
    step = Step(recipe.method, recipe.build_network())
    step.clip = recipe.clip
    before = torch.cat([p.detach().flatten() for p in step.net.parameters()])
    feed = BatchStream(images, recipe.views, recipe.strength, 32, 1, Key(1))
    with Run(tmp_path, {}, {}) as run:
        how = Execution(run, Runtime("cpu").open(), save_every=1e9, quiet=True)
        with training(step, feed, recipe.optimizer, how) as loop:
            loop.go(recipe.lr, until=1)
    moved = torch.cat([p.detach().flatten() for p in step.net.parameters()]) - before
    assert float(moved.norm()) > 0.5 if clip in (0.0, 1e9) else float(moved.norm()) == pytest.approx(0.5, rel=1e-3)
