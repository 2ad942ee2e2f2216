"""Runs of several processes: killed, stopped, gone on with by as many or by others, and what the first of them says."""

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import RECIPE as PLAIN

import unshaken
from processes import ended, launched_together, started
from unshaken.base.schedule import Constant
from unshaken.nets.checkpoint import read_tensors
from unshaken.train.averaging import EMA
from unshaken.train.loop import Loop
from unshaken.train.optim import SGD
from unshaken.train.run_dir import Run
from unshaken.train.signals import Interrupted
from variants import variants

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


@pytest.mark.parametrize(("victim", "step"), variants([(0, 5), (1, 6)], [(0, 5)]))
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


def chain(root: Path, rank: int = 0) -> None:
    """Pre-train, then LP-AFF, AutoLoRa, and robustify with a guard, on 64 images for an epoch or two each."""
    space, data = unshaken.Workspace(root, unshaken.Runtime("cpu"), quiet=True), unshaken.DataSource("digits", limit=64)
    first = unshaken.pretrain(replace(RECIPE, data=data, epochs=1), space)
    stages = unshaken.recipe("dynacl++/digits")
    short = {name: replace(getattr(stages, name), epochs=1, batch_size=32) for name in ("probe", "tune")}
    unshaken.pretrain(replace(stages, teacher=str(first), data=data, **short), space)
    auto = unshaken.finetune_recipe(first, "autolora", data)
    unshaken.finetune(first, replace(auto, epochs=2, batch_size=16, aside=3), space)
    robust = unshaken.recipe("fare/digits")
    unshaken.pretrain(replace(robust, teacher=str(first), data=data, epochs=2, batch_size=16), space)


@pytest.mark.extra
def test_whole_runs_of_every_kind_end_near_those_of_one_process(tmp_path):
    """Their stages, choices and files; test_processes.py compares updates in float64."""
    chain(tmp_path / "one")
    launched_together(2, partial(chain, tmp_path / "two"))
    found = [trained_files(tmp_path / many) for many in ("one", "two")]
    assert [*found[0]] == [*found[1]]
    assert len(found[0]) == 5
    labels = [next((tmp_path / many).rglob("pseudo-labels.safetensors")) for many in ("one", "two")]
    alike = torch.equal(*(read_tensors(file)[0]["label"] for file in labels))
    for name, file in found[0].items():
        one, two = (read_tensors(each)[0] for each in (file, found[1][name]))
        assert {key: tensor.shape for key, tensor in one.items()} == {key: tensor.shape for key, tensor in two.items()}
        if name == "probe" and not alike:  # on some processors rounding alone moves an image into another cluster
            continue
        for key, tensor in one.items():
            far = (two[key].float() - tensor.float()).norm() / tensor.float().norm().clamp_min(1e-3)
            assert far < 0.02, f"{name}: {key} {far:.3f}"


def trained_files(root: Path) -> dict[str, Path]:
    """The trained networks by the names of their runs, without the hash of the recipe, which has a path."""
    files = [file for kind in ("encoder", "classifier", "head") for file in root.rglob(f"{kind}.safetensors")]
    return {file.parent.name.rpartition("-")[0]: file for file in sorted(files)}
