"""Each example runs as a program of its own, in seconds, and is short enough to read at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {
    "own_images.py": "standard accuracy: ",
    "own_attack.py": "MomentumAttack: ",
    "lightning_callbacks.py": "at the end: ",
    "own_network.py": "robust accuracy: ",
    "own_observer.py": "finished: the loss fell from ",
    "parts.py": "robust: ",
}
"""What each example prints."""


def test_each_example_is_tested_and_short() -> None:
    assert {file.name for file in EXAMPLES} == {*SAYS}
    for file in EXAMPLES:
        assert len(file.read_text().splitlines()) < 70, file.name


@pytest.mark.parametrize("name", SAYS)
def test_runs(name: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), str(tmp_path)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
    assert "Traceback" not in done.stderr
