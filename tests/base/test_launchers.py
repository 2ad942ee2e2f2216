"""Children of a command: their codes, the signals that are passed on, and what a launcher says of a process."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from unshaken.base import launchers
from unshaken.base.launchers import Launched, launched, run_children, workers


def python(code: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-S", "-c", code], {}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
            Launched("torchrun", 5, 8, (1, 4)),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # an allocation, but no step
        (
            {"SLURM_PROCID": "6", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "2"},
            Launched("srun", 6, 8, (2, 4)),
        ),
    ],
)
def test_what_a_launcher_says(variables, expected, monkeypatch):
    for name in os.environ:
        if name.startswith(("SLURM_", "LOCAL_", "WORLD_", "RANK")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected


def test_workers_are_launched(monkeypatch):
    for rank, variables in enumerate(workers(3)):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert launched() == Launched("torchrun", rank, 3, (rank, 3))


def test_the_code_is_that_of_a_failure(monkeypatch):
    monkeypatch.setattr(launchers, "GRACE", 0.3)
    assert run_children([python("pass"), python("pass")]) == 0
    assert run_children([python("pass"), python("raise SystemExit(3)")]) == 3
    assert run_children([python("import os; os.kill(os.getpid(), 9)"), python("pass")]) == 137
    begun = time.monotonic()
    assert run_children([python("import time; time.sleep(60)"), python("raise SystemExit(2)")]) == 2
    assert time.monotonic() - begun < 10


def test_those_that_need_no_other_go_on(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(launchers, "GRACE", 0.0)
    late = python(f"import time; time.sleep(0.5); open({str(tmp_path / 'done')!r}, 'w')")
    assert run_children([python("raise SystemExit(2)"), late], together=False) == 2
    assert (tmp_path / "done").exists()


def test_a_signal_reaches_each_child_once(tmp_path: Path):
    """Also Ctrl-C, which a terminal sends to all processes of a command: children have a session of their own."""
    code = f"""
import os, signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
open({str(tmp_path)!r} + "/" + os.environ["NAME"], "w")
end = time.monotonic() + 20
while not seen and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(40 + len(seen))
"""

    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    words, _ = python(code)
    assert run_children([(words, {"NAME": "a"}), (words, {"NAME": "b"})]) == 41
