"""--runtime.devices: which children a command starts, and that shares of an evaluation make the whole, bit for bit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fitted import least_squares, write_run

from unshaken import cli
from unshaken.commands import children
from unshaken.compute.runtime import Runtime

EVALUATE = (
    "--limit",
    "20",
    "--batch-size",
    "8",
    "--attack.steps",
    "1",
    "--runtime.device",
    "cpu",
    "--runtime.threads",
    "1",
    "--json",
)


@pytest.fixture
def started(monkeypatch) -> list:
    """The children, which are not started."""
    found = []
    monkeypatch.setattr(children, "run_children", lambda commands, **how: found.append((commands, how)) or 0)
    return found


def test_a_training_is_started_once_for_each_device(started, capsys):
    words = ["pretrain", "acl/digits", "--epochs", "2", "--runtime.device", "cpu", "--runtime.devices", "3"]
    assert cli.run(words) == 0
    ((commands, how),) = started
    assert [command[1:] for command, _ in commands] == [["-m", "unshaken", *words]] * 3
    assert [variables["RANK"] for _, variables in commands] == ["0", "1", "2"]
    assert how == {}


def test_a_mistake_is_found_before_anything_is_started(started, capsys):
    assert cli.run(["pretrain", "acl/digits", "--epohcs", "2", "--runtime.devices", "2"]) == 2
    assert cli.run(["pretrain", "acl/digits", "--runtime.devices", "2", "--runtime.nodes", "2"]) == 2
    assert "torchrun or srun" in capsys.readouterr().err
    assert started == []


def test_python_is_told_who_starts_processes():
    with pytest.raises(ValueError, match="2 processes were asked for, and this one is alone"):
        Runtime("cpu", devices=2).open("together")


def test_other_numbers_than_the_launchers_are_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun has started 2 processes on each of 2"):
        Runtime("cpu", devices=4).open("together")
    with pytest.raises(ValueError, match="never tried"):
        replace(Runtime("cpu"), compile="graphs").open("together")


def verdicts(folder: Path) -> dict:
    (file,) = folder.glob("result-*.json")
    found = json.loads(file.read_text())
    assert {"standard", "robust", "world"} <= set(found)
    return timeless(found)


def timeless(value):
    """The same without seconds, and the checksum that depends on them."""
    if not isinstance(value, dict):
        return value
    return {name: timeless(one) for name, one in value.items() if name not in ("seconds", "checksum")}


def test_shares_of_an_evaluation_make_the_whole(tmp_path, monkeypatch, capsys):
    """Two processes with as many threads as the one have its bits and its world; the last words print the result."""
    alone, shared = (write_run(tmp_path / name, least_squares(1)) for name in ("alone", "shared"))
    assert cli.run(["evaluate", str(alone), *EVALUATE]) == 0
    ran = []

    def run(commands, **how) -> int:
        assert how == {"together": False, "results": False}
        for words, _ in commands:
            ran.append(words[words.index("--shard") + 1])
            assert cli.run(words[3:]) == 0
        return 0

    monkeypatch.setattr(children, "run_children", run)
    assert cli.run(["evaluate", str(shared), *EVALUATE, "--runtime.devices", "2"]) == 0
    assert ran == ["1/2", "2/2"]
    assert verdicts(alone) == verdicts(shared)


@pytest.mark.parametrize("flag", [["--until", "0.01"], ["--shard", "1/2"]])
def test_what_needs_all_verdicts_is_refused(flag, tmp_path, started, capsys):
    run = write_run(tmp_path / "run", least_squares(1))
    assert cli.run(["evaluate", str(run), *flag, "--runtime.devices", "2"]) == 2
    assert flag[0] in capsys.readouterr().err
    assert started == []
