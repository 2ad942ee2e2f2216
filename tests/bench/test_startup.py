"""The comparison runs, and the command line starts as fast as it should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.startup import begun

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_comparison_runs():
    command = [sys.executable, "-m", "bench", "startup", "--quick", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    seconds = result["seconds"]
    assert (result["name"], result["n"], result["ours_s"]) == (
        "startup",
        1,
        pytest.approx(seconds["first step"], abs=1e-3),
    )
    assert result["ratio"] > 0
    assert 0 < seconds["help"] < seconds["first step"]
    assert min(seconds["import torch"], seconds["help of pretrain"]) > 0


@pytest.mark.slow
def test_a_command_that_trains_nothing_is_no_measurement():
    with pytest.raises(RuntimeError, match=r"no step was made: unshaken: .*acl/digitz"):
        begun(["pretrain", "acl/digitz"], "checkpoint.safetensors")
