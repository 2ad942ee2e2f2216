"""The computation of a run is decided once, kept with the run, and taken again by the command that resumes it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unshaken
from processes import launched_together
from unshaken.base.distributed import leave
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.compute.runtime import Runtime
from unshaken.compute.ways import FIXED
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.runs import computation
from unshaken.runs.computation import as_begun, settled
from unshaken.runs.pretrain import pretrain
from unshaken.runs.workspace import Workspace
from unshaken.train import computation_trial
from unshaken.train.signals import Interrupted, guard_signals

IMAGES = Images(torch.randint(256, (16, 1, 8, 8), generator=Key("few").on("cpu"), dtype=torch.uint8), name="few")
RECIPE = replace(unshaken.recipe("acl/digits"), data=DataSource.of(IMAGES), epochs=2, batch_size=8, lr=Constant(0.1))


@pytest.fixture
def trial(monkeypatch):
    """A trial whose outcome is set; it counts how often it is asked."""
    found = {"ways": ("channels-last",), "asked": 0}

    def chosen(training, runtime, *limit):
        found["asked"] += 1
        return replace(runtime, computation=found["ways"]), f"computation: {found['ways']}"

    monkeypatch.setattr(computation, "chosen_computation", chosen)
    return found


def digest(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["digest"]


def test_a_resumed_run_takes_the_same_computation(trial, tmp_path, capsys):
    """A second trial would choose otherwise; the run ends with the bits of one that was not stopped."""
    whole = pretrain(RECIPE, Workspace(tmp_path / "whole", Runtime("cpu")))
    assert "computation: ('channels-last',)" in capsys.readouterr().err
    with pytest.raises(Interrupted), guard_signals(1e-6):
        pretrain(RECIPE, Workspace(tmp_path / "cut", Runtime("cpu"), save_every=0))
    trial["ways"] = ("plain",)
    asked = trial["asked"]
    cut = pretrain(RECIPE, Workspace(tmp_path / "cut", Runtime("cpu")))
    assert trial["asked"] == asked
    assert digest(cut) == digest(whole)
    result = json.loads((cut / "run.json").read_text())
    assert result["computation"] == ["channels-last"] == result["world"]["computation"]
    pretrain(RECIPE, Workspace(tmp_path / "cut", Runtime("cpu")))  # it is finished
    assert trial["asked"] == asked
    with pytest.raises(ValueError, match="was started with"):
        pretrain(RECIPE, Workspace(tmp_path / "cut", Runtime("cpu", computation=("plain",))))


def test_the_choice_is_part_of_the_bits_and_can_be_set(trial, tmp_path):
    """A pinned computation asks no trial, and gives the bits that the trial's choice gives."""
    chosen = pretrain(RECIPE, Workspace(tmp_path / "a", Runtime("cpu")))
    asked = trial["asked"]
    pinned = pretrain(RECIPE, Workspace(tmp_path / "b", Runtime("cpu", computation=("channels-last",))))
    assert trial["asked"] == asked
    assert digest(pinned) == digest(chosen)


def test_short_runs_end_with_the_bits_of_the_fixed_ways(tmp_path):
    auto = pretrain(RECIPE, Workspace(tmp_path / "a", Runtime("cpu")))
    fixed = pretrain(RECIPE, Workspace(tmp_path / "b", Runtime("cpu", computation=FIXED)))
    assert digest(auto) == digest(fixed)
    about = json.loads((auto / "recipe.json").read_text())["data"]
    assert "computation" not in about
    assert json.loads((auto / "run.json").read_text())["computation"] == list(FIXED)


def test_a_run_from_before_there_was_a_choice_goes_on_with_the_fixed_ways(trial, tmp_path):
    (tmp_path / "recipe.json").write_text("")
    for identity, ways in (({"precision": "float32"}, FIXED), ({"computation": ["plain"]}, ("plain",))):
        assert as_begun(Runtime("cpu"), identity).computation == ways
    pinned = Runtime("cpu", computation=("folding",))
    assert as_begun(pinned, {"computation": ["plain"]}) == pinned


def test_the_precision_of_auto_is_kept_with_the_run(monkeypatch):
    monkeypatch.setattr("unshaken.compute.runtime.multiplies_bf16", lambda kind: True)
    auto = Runtime("cpu", "auto")
    assert auto.precision == "bf16"
    assert as_begun(auto, {"precision": "float32"}).precision == "float32"
    assert as_begun(Runtime("cpu", "bf16"), {"precision": "float32"}).precision == "bf16"


def test_fine_tuning_is_decided_in_the_same_way(trial, tmp_path):
    run = pretrain(RECIPE, Workspace(tmp_path, Runtime("cpu", computation=FIXED)))
    labelled = replace(IMAGES, label=torch.arange(16) % 2, names=("a", "b"))
    recipe = replace(unshaken.finetune_recipe(run, "slf"), epochs=1, batch_size=8)
    trial["ways"] = ("folding",)
    tuned = unshaken.finetune(run, recipe, Workspace(runtime=Runtime("cpu")), data=labelled)
    assert trial["asked"] == 1
    assert json.loads((tuned / "run.json").read_text())["computation"] == ["folding"]


def two(rank: int) -> None:
    """The second process would choose otherwise, and takes the first one's choice."""
    runtime = Runtime("cpu", threads=1)
    runtime.join()
    ways = [("plain",), ("folding",)][rank]
    computation.chosen_computation = lambda training, runtime: (replace(runtime, computation=ways), "")  # pyright: ignore
    found = settled(Workspace(runtime=runtime, quiet=True), Path(os.devnull) / "none", lambda: object())  # pyright: ignore
    assert found.runtime.computation == ("plain",)
    leave()


def test_processes_take_the_choice_of_the_first():
    launched_together(2, two)


def test_a_real_trial_is_made_for_a_long_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(computation_trial, "LONG", 1.0)
    run = pretrain(RECIPE, Workspace(tmp_path, Runtime("cpu")))
    said = capsys.readouterr().err
    assert "computation: float32" in said
    assert "--runtime.computation" in said
    assert "computation" in json.loads((run / "run.json").read_text())
