"""What is chosen for a user's own images: by their number and by a trial, once, and said; what is typed stays."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unshaken
from unshaken import cli
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.runs import choices, speeds, trial
from unshaken.runs.choices import choose, fitting, suited_batch
from unshaken.train.throughput import Speed


@pytest.mark.parametrize(
    ("images", "batch", "suited"),
    [(5120, 512, None), (50_000, 512, None), (5119, 512, 256), (1352, 512, 128), (80, 512, 32), (80, 32, None)],
)
def test_a_batch_leaves_ten_steps(images, batch, suited):
    assert suited_batch(images, batch) == suited


@pytest.mark.parametrize(
    ("seconds", "whole", "epochs", "fit"),
    [
        (3600, 1000, 1000, 1000),
        (3600, 36_000, 1000, 100),
        (3600, 20_000, 1000, 180),
        (3600, 1e9, 1000, 1),
        (7, 70, 90, 9),
    ],
)
def test_epochs_that_fit(seconds, whole, epochs, fit):
    assert fitting(seconds, whole, epochs) == fit


def own(epochs: int = 1000) -> unshaken.Pretrain:
    return replace(unshaken.recipe("acl/cifar10"), data=DataSource("photos"), epochs=epochs)


IMAGES = Images(np.zeros((64, 3, 32, 32), np.uint8), name="photos")


@pytest.fixture
def measured(monkeypatch):
    """Speeds as if measured: 100 images a second, and another number in bf16."""
    found = {"float32": 100.0, "bf16": 200.0}
    speed = lambda one, images, runtime, seconds=0.0: Speed(found[runtime.precision], 0.0, 64)  # noqa: E731
    for module in (speeds, trial):
        monkeypatch.setattr(module, "pretrain_speed", speed)

    def computation(recipe, images, runtime, count=None):
        best = max(found, key=lambda name: found[name]) if runtime.by_trial else runtime.precision
        chosen = replace(runtime, precision=best, computation=("channels-last",))
        return chosen, [f"computation: {best}, channels-last"]

    monkeypatch.setattr(choices, "with_computation", computation)
    return found


def test_epochs_fit_the_hours(measured):
    """2,400 images at 100 a second are 24 s an epoch: 150 epochs an hour, with a warm-up of a tenth at most."""
    choice = choose(own(), (), Runtime(device="cpu"), 1.0, IMAGES, 2400)
    assert (choice.epochs, choice.batch_size) == (150, 128)
    recipe = choice.apply(own())
    assert (recipe.epochs, recipe.batch_size, recipe.lr.warmup) == (150, 128, 10)
    assert any("150 epochs instead of the paper's 1,000, which would take 6 h 40 min" in line for line in choice.lines)
    assert choose(own(), (), Runtime(device="cpu"), 8.0, IMAGES, 2400).epochs == 1000
    assert choose(own(), ("epochs", "batch_size"), Runtime(device="cpu"), 1.0, IMAGES, 2400).epochs == 1000


@pytest.mark.parametrize(("bf16", "chosen"), [(200.0, "bf16"), (50.0, "float32")])
def test_auto_takes_the_precision_that_is_faster_here(measured, bf16, chosen, monkeypatch):
    monkeypatch.setattr("unshaken.compute.runtime.multiplies_bf16", lambda kind: True)
    measured["bf16"] = bf16
    runtime = Runtime(device="cpu", precision="auto")
    assert runtime.by_trial
    assert not Runtime(device="cpu", precision="bf16").by_trial
    choice = choose(own(), ("epochs",), runtime, 1.0, IMAGES)
    assert choice.runtime.precision == chosen
    assert choice.runtime.computation == ("channels-last",)
    assert f"computation: {chosen}, channels-last" in choice.lines


def test_the_same_command_goes_on_with_the_same_choice(tmp_path, monkeypatch, capsys, measured):
    """The second time nothing is measured, though the machine is ten times slower now; a typed field stays."""
    (tmp_path / "photos").mkdir()
    for k in range(70):
        Image.fromarray(np.full((20, 20, 3), k, np.uint8)).save(tmp_path / "photos" / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    measured["float32"] = 7.0
    args = ["pretrain", "simclr", "--data", "photos", "--backbone.name", "resnet-small", "--hours", "0.01"]
    assert cli.run(args) == 0
    said = capsys.readouterr().err
    assert "chosen: 3 epochs instead of the paper's 1,000" in said
    assert "chosen: batches of 32 instead of 512" in said
    measured["float32"] = 0.7
    assert cli.run(args) == 0
    assert "found finished" in capsys.readouterr().err
    (run,) = Path("runs").glob("simclr-photos-*")
    assert json.loads((run / "run.json").read_text())["computation"] == ["channels-last"]


def test_python_chooses_as_the_command_line_does(tmp_path, monkeypatch, capsys, measured):
    """A named recipe is fitted to the images and the machine, and that is said; a value stays as it is."""
    begun = []

    def train(recipe, teacher, start, workspace):
        begun.append((recipe.epochs, recipe.batch_size))
        return tmp_path

    monkeypatch.setattr(import_module("unshaken.runs.pretrain"), "pretrain_encoder", train)
    measured["float32"] = 7.0
    images = torch.randint(256, (70, 3, 32, 32), dtype=torch.uint8)
    unshaken.pretrain("simclr", unshaken.Workspace(tmp_path / "runs"), data=images, hours=0.01)
    assert "chosen: 3 epochs instead of the paper's 1,000" in capsys.readouterr().err
    unshaken.pretrain("simclr", unshaken.Workspace(tmp_path / "runs", quiet=True), data=images, hours=0.01)
    assert not capsys.readouterr().err
    unshaken.pretrain(unshaken.recipe("simclr"), unshaken.Workspace(tmp_path / "runs"), data=images)
    unshaken.pretrain("simclr/digits", unshaken.Workspace(tmp_path / "runs"))
    usual, digits = unshaken.recipe("simclr"), unshaken.recipe("simclr/digits")
    assert begun == [(3, 32), (3, 32), (usual.epochs, usual.batch_size), (digits.epochs, digits.batch_size)]


@pytest.mark.parametrize(
    ("args", "fixed"),
    [
        (["mine.py:recipe"], {"epochs", "batch_size"}),
        (["simclr/cifar10"], set()),
        (["simclr/cifar10", "--num-epochs", "3"], {"epochs"}),
        (["simclr/cifar10", "--config", "mine.yaml"], {"batch_size"}),
    ],
)
def test_what_the_user_set_stays(args, fixed, tmp_path, monkeypatch):
    """On the command line, by another name, in a file, or in a recipe of their own."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("import unshaken\n\n\ndef recipe():\n    return unshaken.recipe('simclr/cifar10')\n")
    Path("mine.yaml").write_text("batch-size: 64\n")
    found = []

    def remembered(asked, typed, *others):
        found.append(typed)
        raise ValueError("here it would be chosen")

    monkeypatch.setattr(import_module("unshaken.commands.pretrain"), "remembered", remembered)
    assert cli.run(["pretrain", *args]) == 2
    assert found == [fixed]
