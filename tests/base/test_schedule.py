"""Schedules against the released code's own counting of steps and epochs."""

from math import cos, pi

import pytest
import torch

from unshaken.base.schedule import Clock, Constant, MultiStep, StepSchedule, WarmupCosine


def at_epoch(epoch: int, epochs: int) -> Clock:
    """Before the first update of an epoch, counted from 0, of ten updates each."""
    return Clock(step=10 * epoch, epoch=epoch, time=epoch + 0.1, epochs=epochs)


def at_step(step: int, length: int, epochs: int) -> Clock:
    """At an update, counted from 0, where an epoch has `length` of them."""
    return Clock(step, step // length, (step + 1) / length, epochs)


def released_factor(step: int, total: int, warm: int, lowest: float) -> float:
    """The LambdaLR factor of ACL and AIR. The scheduler steps before the update, so that the first one sees step 1."""
    if step < warm:
        return step / warm
    return lowest + (1 - lowest) * 0.5 * (1 + cos(pi * (step - warm) / (total - warm)))


@pytest.mark.parametrize(("length", "epochs"), [(98, 30), (7, 25), (1, 11)])
def test_warm_up_and_cosine_as_released(length, epochs):
    lr = WarmupCosine(5.0)
    for step in range(length * epochs):
        expected = 5.0 * released_factor(step + 1, length * epochs, 10 * length, 1e-6 / 5.0)
        assert lr(at_step(step, length, epochs)) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_warm_up_and_cosine_at_their_corners():
    lr = WarmupCosine(5.0)
    assert lr(at_step(0, 98, 1000)) == pytest.approx(5.0 / 980)
    assert lr(at_step(979, 98, 1000)) == 5.0
    assert lr(at_step(98 * 505 - 1, 98, 1000)) == pytest.approx((5.0 + 1e-6) / 2)
    assert lr(at_step(97999, 98, 1000)) == pytest.approx(1e-6)


@pytest.mark.parametrize("epochs", [5, 10])
def test_a_run_can_consist_of_warm_up_only(epochs):
    rates = [WarmupCosine(1.0)(at_step(step, 4, epochs)) for step in range(4 * epochs)]
    assert rates == pytest.approx([(step + 1) / 40 for step in range(4 * epochs)])


def test_without_warm_up_the_cosine_starts_at_the_peak():
    assert WarmupCosine(1.0, warmup=0.0)(at_step(49, 10, 10)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("epochs", [1000, 120])
def test_dynacl_strength_and_weight_as_released(epochs):
    strength, omega = StepSchedule(1, 0, every=50), StepSchedule(0, 2 / 3, every=50)
    for e in range(1, epochs + 1):
        s = 1 - ((e - 1) // 50) * 50 / epochs
        clock = at_epoch(e - 1, epochs)
        assert strength(clock) == pytest.approx(s)
        assert omega(clock) == pytest.approx(2 / 3 * (1 - s))


def test_dynacl_strength_of_a_thousand_epochs():
    values = [StepSchedule(1, 0, every=50)(at_epoch(epoch, 1000)) for epoch in range(1000)]
    assert sorted(set(values), reverse=True) == pytest.approx([1 - 0.05 * k for k in range(20)])
    assert (values[49], values[50], values[-1]) == pytest.approx((1.0, 0.95, 0.05))
    assert StepSchedule(0, 2 / 3, every=50)(at_epoch(999, 1000)) == pytest.approx(0.6333, abs=5e-5)


def test_a_step_schedule_needs_at_least_one_epoch_per_step():
    with pytest.raises(ValueError, match="every is a whole number ≥ 1, not 0"):
        StepSchedule(1, 0, every=0)


@pytest.mark.parametrize(("at", "gamma"), [((), 0.1), ((10, 20), 0.1), ((15, 20), 0.5), ((1,), 0.1)])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_milestones_are_those_of_torch(at, gamma):
    rule = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(rule, list(at), gamma)
    for epoch in range(25):
        assert MultiStep(0.1, at, gamma)(at_epoch(epoch, 25)) == pytest.approx(theirs.get_last_lr()[0])
        theirs.step()


def test_a_constant_has_the_same_value_in_every_epoch():
    assert {Constant(0.3)(at_epoch(epoch, 9)) for epoch in range(9)} == {0.3}
