"""Each example runs as a program of its own, in seconds, and is short enough to read at once."""

import os
import runpy
import sys
from pathlib import Path

import pytest

from processes import Forked
from variants import variants

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {
    "own_method.py": "an encoder by Blend: ",
    "own_images.py": "standard accuracy: ",
    "own_attack.py": "MomentumAttack: ",
    "lightning_callbacks.py": "at the end: ",
    "own_network.py": "robust accuracy: ",
    "own_observer.py": "finished: the loss fell from ",
    "parts.py": "robust: ",
}
"""What each example prints."""
LONG = ("own_images.py", "own_attack.py", "parts.py")
"""Those that take several seconds."""


def test_each_example_is_tested_and_short() -> None:
    assert {file.name for file in EXAMPLES} == {*SAYS}
    for file in EXAMPLES:
        assert len(file.read_text().splitlines()) < 70, file.name


@pytest.mark.parametrize("name", variants(SAYS, [name for name in SAYS if name not in LONG]))
def test_runs(name: str, tmp_path: Path) -> None:
    def run() -> None:
        os.environ["XDG_CONFIG_HOME"] = str(tmp_path)
        os.chdir(tmp_path)
        sys.argv = [name, str(tmp_path)]
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")

    process = Forked(run)
    out, err = (text.decode() for text in process.communicate())
    assert process.returncode == 0, err
    assert SAYS[name] in out
    assert "Traceback" not in err
