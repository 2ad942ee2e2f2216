"""The speed of steps: real ones are timed, and nothing of a network's is kept but what a trial may change."""

from dataclasses import replace

import torch

import unshaken
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.data.images import Images
from unshaken.methods.base import Step
from unshaken.train import throughput as speed
from unshaken.train.batches import BatchStream
from unshaken.train.optim import SGD


def course(batch: int = 32, count: int = 64) -> tuple[Step, BatchStream]:
    recipe = unshaken.recipe("simclr/digits")
    images = Images(torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=Key(0).on("cpu")))
    return Step(recipe.method, recipe.build_network()), BatchStream(
        images, recipe.views, Constant(1.0), batch, 3, Key(1)
    )


def test_speed_is_images_by_time(monkeypatch):
    """A step of n images takes n / 100 s by this clock, the first one a second more."""
    step, feed = course()
    steps = []
    monkeypatch.setattr(speed, "train_step", lambda step, rule, feed, places: steps.append(feed.batch_size))

    def clock(work):
        before = len(steps)
        work()
        return sum(steps[before:]) / 100 + (before == 0)

    monkeypatch.setattr(speed, "seconds_of", clock)
    found = speed.step_speed(step, feed, SGD(), 20.0)
    assert steps[:4] == [16, 16, 32, 32]
    assert abs(found.images_s - speed.MARGIN * 100) < 1e-6
    assert found.startup == 1.16


def test_batches_do_not_grow_where_they_are_slow(monkeypatch):
    step, feed = course()
    steps = []
    monkeypatch.setattr(speed, "train_step", lambda step, rule, feed, places: steps.append(feed.batch_size))
    monkeypatch.setattr(speed, "seconds_of", lambda work: (work(), 10.0)[1])
    speed.step_speed(step, feed, SGD(), 1.0)
    assert set(steps) == {16}


def test_a_trial_trains_at_a_rate_of_nothing():
    step, feed = course()
    before = [p.clone() for p in step.net.parameters()]
    speed.step_speed(step, replace(feed, batch_size=16), SGD(), 0.05)
    for weight, old in zip(step.net.parameters(), before, strict=True):
        assert torch.equal(weight, old)
