"""The tutorial's commands, one after the other, on photos like a reader's: drawn here, few, and for one epoch."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unshaken import cli
from unshaken.runs import trial

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text()
SHORTER = {
    "pretrain": [
        "--epochs",
        "1",
        "--batch-size",
        "16",
        "--backbone.name",
        "resnet-small",
        "--method.attack.steps",
        "1",
    ],
    "finetune": ["--epochs", "1", "--protocol", "clean"],
}
"""What makes a command quick, and changes nothing else of it."""
ELSEWHERE = ("import theirs", "pretrain deacl", "compare A", "--to onnx", "doctor", "report")
"""Commands that need more than photos, or that take seconds and are tested elsewhere."""


def photos(folder: Path, count: int, hue: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for k in range(count):
        pixels = rng.integers(0, 128, (40, 52, 3), dtype=np.uint8)
        pixels[..., hue] += 120
        Image.fromarray(pixels).save(folder / f"{k}.jpg")


def commands() -> list[list[str]]:
    fenced = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines() if line.startswith("unshaken ")]
    return [shlex.split(line)[1:] for line in lines if not any(part in line for part in ELSEWHERE)]


@pytest.mark.extra
def test_the_whole_tutorial_runs_on_photos(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "SECONDS", 0.05)
    rng = np.random.default_rng(0)
    photos(tmp_path / "photos", 32, 0, rng)
    for hue, name in enumerate(("cats", "dogs")):
        photos(tmp_path / "labelled-photos" / name, 30, hue, rng)
    verbs = [words[0] for words in commands()]
    assert verbs == ["pretrain", "pretrain", "finetune", "evaluate", "embed", "export"]
    for words in commands():
        run = next(iter(Path("runs").glob("acl-*/")), None)
        words = [str(run) if word == "RUN" else word for word in words]
        assert cli.run([*words, *SHORTER.get(words[0], [])]) == 0, (words, capsys.readouterr().err)
    assert sum(1 for _ in run.glob("*/result.json")) == 2
    result = json.loads(next(run.glob("slf-*/result.json")).read_text())
    assert 5 <= result["standard"]["n"] <= 20  # about one in five of 60
    assert {"features.parquet", "encoder.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    assert "acl-photos" in capsys.readouterr().out
