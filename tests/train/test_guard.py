"""The guard: what it rolls back, what it leaves alone, when it gives up; a resumed run does the same."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.methods.base import Method
from unshaken.methods.deacl import DeACL
from unshaken.train.averaging import EMA
from unshaken.train.guard import Guard, GuardState
from unshaken.train.run_dir import Run
from variants import variants


def terms(score: float, constant: float = -0.5, loss: float = 1.0) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "distil": torch.tensor(score), "constant": torch.tensor(constant)}


@pytest.fixture
def net() -> nn.Module:
    return nn.Linear(2, 2)


def state(net: nn.Module, **fields) -> GuardState:
    return GuardState(Guard(**{"every": 2, "grace": 0.5, **fields}), "distil", net, total=20)


def test_sound_weights_are_kept_and_come_back(net):
    guard, rule = state(net), torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    assert [guard.note(terms(-0.9), net) for _ in range(2)] == [None, None]
    sound = net.weight.detach().clone()
    net(torch.ones(1, 2)).sum().backward()
    rule.step()
    guard.note(terms(-0.4), net)
    assert "no better than a constant answer's -0.5" in guard.note(terms(-0.4), net)
    guard.roll_back(net, rule)
    assert torch.equal(net.weight, sound)
    assert not rule.state
    assert (int(guard.rollbacks), guard.rate) == (1, pytest.approx(0.3))


def test_a_run_may_begin_worse_than_a_constant_for_its_grace(net):
    guard = state(net)
    looks = [guard.note(terms(-0.1), net) for _ in range(12)]
    assert [bool(reason) for reason in looks] == [False] * 11 + [True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_rolled_back_at_once(net, bad):
    guard = state(net)
    guard.note(terms(-0.9, loss=bad), net)
    assert "no longer a finite number" in guard.note(terms(-0.9), net)
    assert guard.note(terms(-0.9), net) is None


def test_it_gives_up_in_the_end(net):
    guard, rule = state(net, tries=1), torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        guard.note(terms(0, loss=float("nan")), net)
    guard.roll_back(net, rule)
    guard.note(terms(0, loss=float("nan")), net)
    with pytest.raises(ValueError, match="after 1 rollbacks: choose a lower --lr.peak"):
        guard.note(terms(0, loss=float("nan")), net)


@dataclass(frozen=True)
class Breaking(Method):
    """DeACL whose loss is not a number in one step, and whose score is that of a collapse in two others."""

    deacl: DeACL = DeACL(PGD(Linf(0.1), steps=1))

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    teacher: ClassVar = "frozen"
    score: ClassVar = "distil"

    def loss(self, h, batch, clock, key):
        found = self.deacl.loss(h, batch, clock, key)
        if clock.step == 3:
            found["loss"] = found["loss"] * float("nan")
        constant = -2.0 if clock.step in (8, 9) else -0.1
        return found | {"constant": torch.tensor(constant)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    recipe = replace(unshaken.recipe("simclr/digits"), data=unshaken.DataSource(limit=64), epochs=1, batch_size=32)
    return unshaken.pretrain(recipe, unshaken.Workspace(tmp_path_factory.mktemp("teacher"), quiet=True))


def run(root: Path, teacher: Path) -> tuple[str, list[dict]]:
    recipe = replace(
        unshaken.recipe("deacl/digits"), method=Breaking(), data=unshaken.DataSource(limit=96), epochs=4, batch_size=32,
        teacher=str(teacher), averaging=EMA(), guard=Guard(every=2, factor=0.5),
    )  # fmt: skip
    folder = unshaken.pretrain(recipe, unshaken.Workspace(root, save_every=0, quiet=True))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return json.loads((folder / "run.json").read_text())["digest"], log


class Killed(BaseException):
    pass


@pytest.mark.parametrize("saves", variants([3, 7], [3]))
def test_a_resumed_run_rolls_back_in_the_same_places(tmp_path, teacher, monkeypatch, capsys, saves):
    digest, log = run(tmp_path / "whole", teacher)
    assert log[-1]["rollbacks"] == 2
    assert log[-1]["lr"] <= 0.25 * 0.5
    said = capsys.readouterr().err
    assert "step 4: the loss is no longer a finite number; the run goes back" in said
    assert "step 10: distil" in said
    save, count = Run.save, [0]

    def dying(self, *args):
        save(self, *args)
        count[0] += 1
        if count[0] == saves:
            raise Killed

    monkeypatch.setattr(Run, "save", dying)
    with pytest.raises(Killed):
        run(tmp_path / "broken", teacher)
    monkeypatch.setattr(Run, "save", save)
    again, log_again = run(tmp_path / "broken", teacher)
    assert again == digest
    assert [line["rollbacks"] for line in log_again] == [line["rollbacks"] for line in log]
