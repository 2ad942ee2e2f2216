"""The loop's keys and its watch over losses."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from tiny import RECIPE, STEPS

from unshaken.base.clock import Clock
from unshaken.methods.method import Method
from unshaken.train.feed import Place
from unshaken.train.fit import Meter
from unshaken.train.run import Run


def test_a_loss_that_heals_was_still_lost(tmp_path):
    """One NaN between two readings is seen, though the last loss is a number."""
    with Run(tmp_path, "recipe", {}) as run:
        meter = Meter(run)
        for value in (1.0, float("nan"), 1.0):
            meter.note({"loss": torch.tensor(value)}, 2)
        with pytest.raises(ValueError, match="no longer a finite number"):
            meter.read(Clock(2, 0, 1.0, 1))


def test_a_weight_that_is_no_number_is_not_saved(tmp_path):
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = torch.inf
    with Run(tmp_path, "recipe", {}) as run, pytest.raises(ValueError, match="weight is no longer finite"):
        run.save(Place(), net, torch.optim.SGD(net.parameters()), torch.device("cpu"))
    assert not run.checkpoint.exists()


@dataclass(frozen=True)
class Told(Method):
    """Notes what it is given, and learns nothing much."""

    routes: ClassVar = ("clean",)
    keys: ClassVar = []
    views: ClassVar = []

    def loss(self, h, batch, clock, key):
        self.keys.append(key)
        self.views.append(batch.views)
        return {"loss": h(batch.views, "clean").square().mean()}


def test_each_step_draws_anew(tmp_path):
    """No two steps share a key, and an image's two views of two epochs are four images."""
    Told.keys.clear()
    Told.views.clear()
    replace(RECIPE, method=Told()).run(tmp_path, quiet=True)
    assert len(set(Told.keys)) == STEPS
    parts = [view for views in Told.views for view in views.flatten(0, 1)]
    assert len({view.numpy().tobytes() for view in parts}) == len(parts)
