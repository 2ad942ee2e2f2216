"""What is printed: in any encoding, without commands to the terminal; memory, networks and clusters end in one line."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from unshaken import cli, commands
from unshaken.base.terminal import Guarded, guarded, printable, raw
from unshaken.compute import runtime
from unshaken.compute.runtime import Runtime

RESULT = Path(__file__).parent.parent / "results" / "digits" / "acl-slf-seed1.json"
EVIL = "a\x1b]0;owned\x07b\x1b[2Jc\u202e"


def run(*args: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    done = [sys.executable, "-m", "unshaken.cli", *args]
    return subprocess.run(done, env=environment | variables, capture_output=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_any_encoding_can_hold_a_table(encoding):
    """ε, ∞, ω, θ and – are in them; what an encoding lacks is written by its number, and the command succeeds."""
    done = run("report", str(RESULT), PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert ("l∞".encode() if encoding == "utf-8" else b"l\\u221e") in done.stdout


def test_so_can_a_mistake():
    done = run("report", "ω∞", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"\\u03c9\\u221e" in done.stderr
    assert b"Traceback" not in done.stderr


def test_what_commands_a_terminal_is_escaped():
    assert printable(EVIL) == "a\\x1b]0;owned\\x07b\\x1b[2Jc\\u202e"
    assert printable("ε ≤ 8/255\n\tok") == "ε ≤ 8/255\n\tok"


def test_whatever_a_verb_prints_goes_through_the_guard(monkeypatch, capsys):
    def verb(args: list[str]) -> None:
        print(EVIL)
        print(EVIL, file=sys.stderr)
        raise ValueError(EVIL)

    monkeypatch.setitem(commands.VERBS, "cite", verb)
    assert cli.run(["cite", "x"]) == 2
    said = capsys.readouterr()
    assert not set("\x1b\x07\u202e") & {*said.out, *said.err}
    assert "\\x1b]0;owned" in said.out


def test_foreign_names_in_a_terminal(tmp_path, capsys):
    """In the one line of a mistake: the name of a file can hold anything."""
    assert cli.run(["cite", str(tmp_path / EVIL)]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_tables_and_bars_reach_the_terminal_itself():
    stream = io.StringIO()
    assert raw(Guarded(stream)) is stream
    before = sys.stdout
    with guarded(), guarded():
        assert raw(sys.stdout) is before
    assert sys.stdout is before


def allocation() -> None:
    torch.empty(10**15)


def array() -> None:
    numpy.empty(10**15)


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")


@pytest.mark.parametrize("allocate", [allocation, array, on_a_gpu])
@pytest.mark.parametrize("verb", ["pretrain", "finetune", "evaluate", "doctor", "import"])
def test_too_little_memory_is_one_line(verb, allocate, monkeypatch, capsys):
    monkeypatch.setitem(commands.VERBS, verb, lambda args: allocate())
    assert cli.run([verb]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("unshaken: there is not enough memory")


@pytest.mark.parametrize("verb", cli.SMALLER)
def test_what_takes_less_memory_is_an_option_of_the_verb(verb, capsys):
    """The advice names options: each is shown by the verb's own help, which needs no run."""
    with pytest.raises(SystemExit) as done:
        cli.run([verb, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for word in cli.SMALLER[verb].replace("(", " ").replace(")", " ").replace(",", " ").split():
        assert not word.startswith("--") or f" {word} " in shown, word


@pytest.mark.parametrize("verb", ["pretrain", "finetune", "evaluate", "doctor", "frontier", "export"])
def test_help_shows_the_options_before_there_is_a_run(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        cli.run([verb, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert shown.count("--") > 5
    assert "usage: unshaken" in shown


def test_a_mistake_of_ours_is_a_traceback(monkeypatch):
    def verb(args: list[str]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setitem(commands.VERBS, "cite", verb)
    with pytest.raises(RuntimeError):
        cli.run(["cite"])


class ConnectError(Exception):
    """As httpx has it, which is no OSError."""


ConnectError.__module__ = "httpx"


def test_no_network_is_one_line(monkeypatch, capsys):
    def verb(args: list[str]) -> None:
        raise ConnectError("[Errno -3] Temporary failure in name resolution\nmore\nand more")

    monkeypatch.setitem(commands.VERBS, "export", verb)
    assert cli.run(["export"]) == 2
    assert capsys.readouterr().err == (
        "unshaken: the network failed: [Errno -3] Temporary failure in name resolution "
        "(is this machine online, and does the server have what was requested?)\n"
    )


CLUSTER = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_JOB_ID": "1",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NAME": "unshaken",
    "SLURM_NODELIST": "n1",
}
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0"}


@pytest.mark.parametrize(("variables", "launcher"), [(CLUSTER, "SLURM"), (TORCHRUN, "torchrun")])
def test_copies_that_a_launcher_starts_work_alone_and_say_so(variables, launcher, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runtime.warn_about_copies.cache_clear()
    fabric = Runtime(device="cpu").open()
    assert (fabric.world_size, fabric.global_rank) == (1, 0)
    assert capsys.readouterr().err.startswith(f"note: {launcher} started 2 copies of this command")
    runtime.warn_about_copies.cache_clear()
