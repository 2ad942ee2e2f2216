"""Every command on a damaged file: exit code 2 and one line that names it; and nothing is made of it."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fitted import least_squares, write_run
from tiny import RECIPE

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.coreset.rcs import RCS
from unshaken.data.source import DataSource
from unshaken.evaluation import verdict_log as notes
from unshaken.evaluation.protocol import Evaluation
from unshaken.nets.checkpoint import checksum_in, write_tensors
from unshaken.runs.evaluate import evaluate
from unshaken.train.batches import BatchStream, Position
from unshaken.train.coreset_training import CoresetTraining
from unshaken.train.run_dir import Run
from unshaken.transforms.views import CropFlip
from variants import variants

PRETRAIN = [
    "pretrain",
    "acl/digits",
    "--method.attack.steps",
    "1",
    "--data.limit",
    "28",
    "--epochs",
    "3",
    "--batch-size",
]
PRETRAIN += ["8", "--runtime.threads", "1"]
EXAM = Evaluation(PGD(Linf(0.1), steps=20), batch_size=150)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of pre-training and fine-tuning, with a result."""
    root = tmp_path_factory.mktemp("made")
    encoder = unshaken.pretrain(RECIPE, unshaken.Workspace(root / "runs", quiet=True))
    tuned = write_run(root / "slf-digits-1", least_squares(1))
    evaluate(tuned, evaluation=EXAM, workspace=unshaken.Workspace(quiet=True))
    about = {"kind": "coreset", "selector": "RCS", "seconds": 1.0, "epoch": 1}
    write_tensors(
        encoder / "coreset-0001.safetensors", {"index": torch.tensor([3, 1]), "held": torch.tensor([9])}, about
    )
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def encoder_of(root: Path) -> Path:
    return next(root.glob("runs/*/encoder.safetensors"))


def result_of(run: Path) -> Path:
    """The one that there is: its name says what was asked."""
    (found,) = run.glob("result*.json")
    return found


def flipped(at: float) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        place = min(int(at * len(content)), len(content) - 1)
        return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]

    return damage


DAMAGE = {
    "length": flipped(0),
    "header": flipped(0.002),
    "weights": flipped(0.5),
    "end": flipped(1),
    "empty": lambda content: b"",
    "cut": lambda content: content[:-100],
    "zeros": lambda content: content[:1000] + bytes(2000) + content[3000:],
    "deep": lambda content: (200_000).to_bytes(8, "little") + b'{"a":' + b"[" * 199_995,
}


def refused(args: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line."""
    capsys.readouterr()
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file() and path.name != ".lock"}
    assert cli.run(args) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unshaken: ")]
    assert len(said) == 1
    assert file.name in said[0]
    after = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before, "something was made of a damaged file, or lost"
    return said[0]


@pytest.mark.parametrize("damage", variants(DAMAGE, ("weights", "cut", "deep")))
def test_a_damaged_encoder_is_found_by_every_command(damage: str, root: Path, capsys):
    file = encoder_of(root)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    run = str(file.parent)
    for args in (
        [*PRETRAIN, "--out", "runs"],
        ["finetune", run, "--mode", "slf"],
        ["finetune", run, "--mode", "autolora"],
        ["finetune", str(file)],
        ["export", run, "--out", "x.safetensors"],
        ["export", run, "--to", "hub", "--out", "hub"],
        ["verify", run],
        ["verify", run, "--write"],
        ["cite", run],
        ["pretrain", "deacl/digits", "--teacher", run, "--epochs", "1", "--out", "others"],
    ):
        refused(args, file, capsys)


def test_pretraining_again_over_a_damaged_encoder_says_what_to_do(root: Path, capsys):
    file = encoder_of(root)
    sound = file.read_bytes()
    assert cli.run([*PRETRAIN, "--out", "runs"]) == 0
    file.write_bytes(flipped(0.7)(sound))
    said = refused([*PRETRAIN, "--out", "runs"], file, capsys)
    assert "was damaged or altered" in said
    assert "or remove it, and the same command trains it anew" in said


def test_the_file_of_another_run_is_not_taken_for_this_one(root: Path, capsys):
    """Sound, but not what run.json speaks of."""
    file, other = encoder_of(root), root / "hub"
    assert cli.run(["export", str(file.parent), "--to", "hub", "--out", str(other)]) == 0
    shutil.copy(other / "model.safetensors", file)
    assert "this run did not write it" in refused([*PRETRAIN, "--out", "runs"], file, capsys)


@pytest.mark.parametrize("name", ["run.json", "recipe.json"])
def test_a_damaged_record_of_a_run(name: str, root: Path, capsys):
    file = encoder_of(root).with_name(name)
    sound = file.read_text()
    altered = sound.replace('"', "'", 1), sound.replace("1", "2", 3)
    for content in (sound[:-20], "", "[" * 100_000, "[]", *altered):
        file.write_text(content)
        refused([*PRETRAIN, "--out", "runs"], file, capsys)


@pytest.mark.parametrize("damage", variants(DAMAGE, ("weights", "cut", "deep")))
def test_a_damaged_classifier_is_found_by_every_command(damage: str, root: Path, capsys):
    file = root / "slf-digits-1" / "classifier.safetensors"
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    for args in (
        ["evaluate", str(file.parent), "--attack.steps", "1"],
        ["export", str(file.parent), "--out", "x.safetensors"],
        ["verify", str(file.parent)],
        ["verify", str(result_of(file.parent))],
        ["doctor", str(file.parent)],
        ["cite", str(file.parent)],
    ):
        refused(args, file, capsys)


def test_an_altered_result_is_found_by_every_command(root: Path, capsys):
    file = result_of(root / "slf-digits-1")
    sound = read_json(file)
    sealed = json.loads(file.read_text())
    all_right = {"correct": 445, "percent": 100.0, "interval95": [99.1, 100.0]}
    with_checksum = sound | {"robust": sound["robust"] | all_right}  # by somebody who made the checksum anew
    without = sealed | {"robust": sealed["robust"] | all_right}
    for content in (with_checksum, without):
        if content is with_checksum:
            write_json(file, content)
        else:
            file.write_text(json.dumps(content))
        for args in (
            ["report", "slf-digits-1"],
            ["report", str(file), "--out", "table.md"],
            ["compare", str(file), str(file)],
            ["export", "slf-digits-1", "--out", "x.safetensors"],
            ["verify", str(file)],
            ["frontier", str(file)],
        ):
            assert "altered" in refused(args, file, capsys)
    file.write_text(json.dumps(without))
    for args in (["cite", str(file)], ["cite", "slf-digits-1"]):
        refused(args, file, capsys)


@pytest.mark.parametrize("damage", variants(DAMAGE, ("weights", "cut", "deep")))
def test_a_damaged_selection(damage: str, root: Path, capsys):
    file = encoder_of(root).with_name("coreset-0001.safetensors")
    assert cli.run(["coreset", "show", str(file.parent), "--out", "sheets"]) == 0
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    refused(["coreset", "show", str(file.parent), "--out", "sheets"], file, capsys)


def test_damaged_verdicts_are_said_and_judged_again(root: Path, capsys):
    """The altered lines alone, to the same bits; what was damaged is kept aside."""
    run = root / "slf-digits-1"
    sound = read_json(result_of(run))
    (file,) = run.glob("verdicts*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    block = json.loads(lines[2])
    assert block["part"] == "pgd"
    lines[2] = lines[2].replace(block["bits"][:6], "//////")
    file.write_text("".join(lines))
    result_of(run).unlink()
    notes._WARNED.clear()
    again = evaluate(run, evaluation=EXAM, workspace=unshaken.Workspace(quiet=True))
    assert again["robust"]["bits"] == sound["robust"]["bits"]
    said = capsys.readouterr().err
    assert f"{file}, line 3 was damaged or altered" in said
    assert (run / f"{file.name}.damaged1").read_text() == "".join(lines)


def test_a_damaged_log_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """It is for people alone: said, kept aside, and the same bits at the end."""
    digest = read_json(unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path / "whole", quiet=True)) / "run.json")[
        "digest"
    ]
    save = Run.save

    def stop(run: Run, place, *state) -> None:
        save(run, place, *state)
        if place.step == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path / "part", save_every=0, quiet=True))
    monkeypatch.undo()
    (log,) = (tmp_path / "part").rglob("log.jsonl")
    damaged = b"\xff\xfe[[[[\n" + log.read_bytes() + b"{}\n"
    log.write_bytes(damaged)
    run = unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path / "part", quiet=True))
    assert read_json(run / "run.json")["digest"] == digest
    said = capsys.readouterr().err
    assert "log.jsonl" in said
    assert "the run continues" in said
    assert log.with_name("log.jsonl.damaged1").read_bytes() == damaged


def test_a_selection_that_is_gone_is_named(tmp_path: Path):
    """In the middle of the epochs that it was made for."""
    whole = BatchStream(DataSource("digits").load("train"), CropFlip(padding=1), Constant(1.0), 32, 3, Key(0))
    with Run(tmp_path / "run", RECIPE, {}) as run:
        course = CoresetTraining(RCS(warmup=2), None, whole, run, torch.arange(10), torch.arange(2))
        with pytest.raises(ValueError, match="coreset-0002.safetensors is missing, and the run is past the epoch"):
            course.select(Position(2, 1, 9), 2)


def test_a_run_that_was_taken_away_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = Run.log

    def move(run: Run, line) -> None:
        log(run, line)
        if line["step"] == 3:
            run.path.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(Run, "log", move)
    with pytest.raises(ValueError, match="was moved or removed during the run"):
        unshaken.pretrain(RECIPE, unshaken.Workspace(tmp_path / "runs", save_every=0, quiet=True))
    assert not list((tmp_path / "runs").rglob("run.json"))


WRITTEN = ("recipe.json", "checkpoint.safetensors", "encoder.safetensors", "run.json", "log.jsonl")


@pytest.mark.parametrize("what", variants(WRITTEN, ("checkpoint.safetensors", "run.json")))
def test_a_full_disk_names_the_file(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """And leaves nothing that is not whole; the same command goes on once there is room."""
    sync = os.fsync

    def full(file: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{file}")).name.startswith(what):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    assert cli.run([*PRETRAIN, "--out", str(tmp_path), "--save-every", "0"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unshaken: ")]
    assert len(said) == 1
    assert os.strerror(errno.ENOSPC) in said[0]
    assert what in said[0]
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    assert cli.run([*PRETRAIN, "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_is_not_to_be_removed(number: int, root: Path, monkeypatch, capsys):
    """A lacking right or a failing disk says nothing of the content. It is raised here, for root may read all files."""
    file, opened = encoder_of(root), builtins.open

    def fails(path, *how, **named):
        if isinstance(path, (str, Path)) and Path(path).name == file.name:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *how, **named)

    monkeypatch.setattr(builtins, "open", fails)
    for args in (["verify", str(file.parent)], [*PRETRAIN, "--out", "runs"]):
        said = refused(args, file, capsys)
        assert os.strerror(number) in said
        assert "remove" not in said


def test_a_sound_file_of_another_kind_is_not_to_be_removed(root: Path, capsys):
    (root / "net.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch" + bytes(500))
    said = refused(["verify", "net.onnx"], root / "net.onnx", capsys)
    assert "not a complete safetensors file" in said
    assert "remove" not in said


def test_verify_write_gives_files_of_an_earlier_version_their_checksums(root: Path, capsys):
    """As they were before checksums: read again after it, and refused before."""
    run = root / "slf-digits-1"
    for file in (run / "run.json", run / "recipe.json", result_of(run)):
        content = json.loads(file.read_text())
        del content["checksum"]
        file.write_text(json.dumps(content))
    (verdicts,) = run.glob("verdicts*.jsonl")
    lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
    plain = [{name: value for name, value in line.items() if name != "checksum"} for line in lines]
    verdicts.write_text("".join(json.dumps(line) + "\n" for line in plain))
    file = run / "classifier.safetensors"
    sound, content = checksum_in(file), file.read_bytes()
    file.write_bytes(content.replace(b'"checksum":"' + sound.encode() + b'"', b'"checksun":"' + sound.encode() + b'"'))
    refused(["verify", str(run)], file, capsys)
    refused(["report", str(run)], result_of(run), capsys)
    assert cli.run(["verify", "--write", str(run)]) == 0
    assert capsys.readouterr().out.count("a checksum was added") == 5
    assert cli.run(["verify", str(run)]) == 0
    assert cli.run(["report", str(run)]) == 0
    assert json.loads(verdicts.read_text().splitlines()[1])["checksum"] == lines[1]["checksum"]
    assert cli.run(["verify", "--write", str(run)]) == 0
    assert "it had no checksum" not in capsys.readouterr().out
