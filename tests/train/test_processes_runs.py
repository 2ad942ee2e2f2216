"""Runs of several processes: killed, stopped, gone on with by as many or by others, and what the first of them says."""

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tiny import RECIPE as PLAIN

import unshaken
from processes import ended, launched_together, started
from unshaken.base.schedule import Constant
from unshaken.train.averaging import EMA
from unshaken.train.loop import Loop
from unshaken.train.optim import SGD
from unshaken.train.run_dir import Run
from unshaken.train.signals import Interrupted

RECIPE = replace(PLAIN, averaging=EMA(), epochs=2)


def finish(root: Path, rank: int = 0) -> None:
    unshaken.pretrain(RECIPE, unshaken.Workspace(root, unshaken.Runtime("cpu"), save_every=0, quiet=True))


def result(root: Path) -> dict:
    (file,) = root.rglob("run.json")
    return json.loads(file.read_text())


def logged(root: Path) -> list[int]:
    (file,) = root.rglob("log.jsonl")
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("unbroken")
    launched_together(2, partial(finish, root))
    assert logged(root) == [3, 7]
    return result(root)


def dying(root: Path, victim: int, step: int, rank: int) -> None:
    """Train until a process dies at a step, in the middle of an update."""
    update = Loop._update

    def until_death(loop: Loop, batch, clock, position, lr) -> None:
        if position.step == step and rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        update(loop, batch, clock, position, lr)

    Loop._update = until_death
    finish(root)


@pytest.mark.parametrize(("victim", "step"), [(0, 5), (1, 6)])
def test_the_death_of_one_ends_the_other_and_loses_nothing(tmp_path, unbroken, victim, step):
    """The other one ends within half a minute, and the same command again has the same bits."""
    running = started(2, partial(dying, tmp_path, victim, step))
    running[victim].wait()
    codes, _ = ended(running, 30), [one.communicate() for one in running]
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] != 0
    assert not list(tmp_path.rglob("run.json"))
    launched_together(2, partial(finish, tmp_path))
    assert result(tmp_path)["digest"] == unbroken["digest"]
    assert logged(tmp_path) == [3, 7]


def stopping(root: Path, rank: int) -> None:
    log = Run.log

    def asked(run: Run, line) -> None:
        log(run, line)
        if line["step"] == 3 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    Run.log = asked
    with pytest.raises(Interrupted) as stop:
        finish(root)
    assert stop.value.code == 143


def test_a_signal_to_one_stops_both_after_the_same_step_and_one_goes_on_alone(tmp_path, unbroken, capsys):
    """Alone it is the same but for rounding; this is said, and run.json has both environments."""
    launched_together(2, partial(stopping, tmp_path))
    assert list(tmp_path.rglob("checkpoint.safetensors"))
    finish(tmp_path)
    assert "resumes in another environment (" in (said := capsys.readouterr().err)
    assert "processes 2, now 1" in said
    found = result(tmp_path)
    assert [world.get("processes") for world in found["worlds"]] == [2, None]
    assert logged(tmp_path) == [3, 7]
    assert unbroken["world"]["processes"] == 2


def refused(root: Path, rank: int) -> None:
    with pytest.raises(ValueError, match="another process is working in") as told:
        finish(root)
    assert hasattr(told.value, "said_elsewhere") == (rank == 1)
    with pytest.raises(ValueError, match="no longer a finite number"):
        diverge(root / "other")


def diverge(root: Path) -> None:
    recipe = replace(RECIPE, optimizer=SGD(), lr=Constant(1e30))
    unshaken.pretrain(recipe, unshaken.Workspace(root, save_every=0, quiet=True))


def test_what_is_wrong_for_the_first_is_wrong_for_all(tmp_path):
    """A run that another command holds; and a loss that is not finite."""
    with Run.open(tmp_path, f"{RECIPE.name}-digits", RECIPE, {}):
        launched_together(2, partial(refused, tmp_path))
