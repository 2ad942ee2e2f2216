"""A dry run prints the work and its time, and writes nothing; --quiet, several modes, and lists with commas."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unshaken import cli
from unshaken.commands.finetune import modes_of
from unshaken.runs import trial

QUICK = ["--epochs", "4", "--batch-size", "32", "--data.limit", "64", "--method.attack.steps", "1"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 0.05)


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_a_dry_run_of_each_stage_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["pretrain", "acl/digits", *QUICK, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "acl: 64 images of 8 pixels (digits, train); 4 epochs of 2 steps of 32 images; 90,336 weights" in said
    assert re.search(r"measured: [\d,.]+ images/s.*\nexpected: about \d+ s, .*\nmemory: \d\.\d GB", said)
    assert cli.run(["pretrain", "acl/digits", *QUICK, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["images"], plan["epochs"], plan["steps"], plan["weights"]) == (64, 4, 8, 90_336)
    assert plan["seconds"] >= plan["epoch_seconds"] > 0
    assert any("cheaper" in note for note in plan["notes"])
    assert cli.run(["pretrain", "acl/digits", *QUICK, "--json"]) == 2
    assert "--json is for the plan: add --dry-run" in capsys.readouterr().err
    assert not files(tmp_path)
    assert cli.run(["pretrain", "acl/digits", "--epochs", "1", *QUICK[2:], "-q"]) == 0
    captured = capsys.readouterr()
    assert not captured.err
    (run,) = (tmp_path / "runs").iterdir()
    tuning = ["--epochs", "1", "--data.limit", "64", "--mode", "slf,alf"]
    before = files(tmp_path)
    assert cli.run(["robustify", str(run), "--data", "digits", "--data.limit", "64", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["name"], plan["images"], plan["memory_gb"] > 0) == ("deacl", 64, True)
    assert files(tmp_path) == before
    assert cli.run(["finetune", str(run), *tuning, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(\w+): 64 images", said, re.MULTILINE) == ["slf", "alf"]
    assert cli.run(["finetune", str(run), *tuning, "--dry-run", "--json"]) == 0
    assert [(each["name"], each["images"]) for each in json.loads(capsys.readouterr().out)] == [
        ("slf", 64),
        ("alf", 64),
    ]
    assert files(tmp_path) == before
    assert cli.run(["finetune", str(run), *tuning, "--quiet"]) == 0
    assert len(list(run.glob("*/classifier.safetensors"))) == 2
    before, _ = files(tmp_path), capsys.readouterr()
    (one,) = run.glob("slf-*")
    assert cli.run(["evaluate", str(one), "--dry-run", "--autoattack", "standard", "--corruptions", "fog,snow"]) == 0
    said = capsys.readouterr().out
    assert "445 images of 8 pixels (digits, test); 16 stages" in said
    assert "AutoAttack: at most" in said
    assert cli.run(["evaluate", str(one), "--dry-run", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["images"], plan["stages"], plan["autoattack_seconds_at_most"]) == (445, ["clean", "pgd"], None)
    assert files(tmp_path) == before


def test_photos_are_counted_and_no_copy_of_them_is_kept(tmp_path, monkeypatch, capsys):
    """More photos than a trial decodes: their number is estimated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "MOST", 8)
    for k in range(20):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), k, np.uint8)).save(tmp_path / "photos" / f"{k}.png")
    before = files(tmp_path)
    args = ["pretrain", "simclr", "--data", "photos", "--backbone.name", "resnet-small", "--epochs", "1"]
    assert cli.run([*args, "--dry-run"]) == 0
    assert "about 20 images of 32 pixels" in capsys.readouterr().out
    assert cli.run(["pretrain", "simclr", *args[2:-2], "--dry-run", "--json"]) == 0  # epochs are chosen
    plan = json.loads(capsys.readouterr().out)
    assert (plan["images"], plan["images_are_counted"]) == (20, False)
    assert any("batches of 32 instead of 512" in note for note in plan["notes"])
    assert files(tmp_path) == before


def test_errors_are_said_though_it_is_quiet(capsys):
    assert cli.run(["pretrain", "acl/digits", "--epoch", "3", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("unshaken: there is no option --epoch")


@pytest.mark.parametrize(
    ("words", "modes"),
    [
        ([], ["slf", "alf", "aff"]),
        (["all"], ["slf", "alf", "aff"]),
        (["SLF"], ["slf"]),
        (["aff", "slf", "aff"], ["aff", "slf"]),
        (["autolora", "all"], ["autolora", "slf", "alf", "aff"]),
    ],
)
def test_modes(words, modes):
    assert modes_of(words) == modes
