"""What a run picked, shown: the images of its own source in the order picked, and a table of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unshaken import cli
from unshaken.base.json_files import read_json, write_json
from unshaken.nets.checkpoint import read_tensors
from unshaken.runs.selections import selections_in

QUICK = [
    "--epochs",
    "3",
    "--batch-size",
    "32",
    "--data.limit",
    "80",
    "--method.attack.steps",
    "1",
    "--runtime.threads",
    "1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    select = ["warmup", "1", "every", "1", "validation", "0.02", "attack.steps", "1"]
    dotted = [f"--coreset.{word}" if k % 2 == 0 else word for k, word in enumerate(select)]
    assert cli.run(["pretrain", "acl-rcs/digits", *QUICK, *dotted, "--out", str(out)]) == 0
    return next(out.iterdir())


def test_selections_are_read_in_time_with_their_candidates(run):
    found, candidates, images = selections_in(run)
    assert [file.name for file in found] == ["coreset-0001.safetensors", "coreset-0002.safetensors"]
    assert [epoch for epoch, _, _ in found.values()] == [1, 2]
    tensors, about = read_tensors(next(iter(found)))
    assert next(iter(found.values())) == (1, tuple(tensors["index"].tolist()), about["seconds"])
    assert sorted([*candidates, *tensors["held"].tolist()]) == list(range(80)) == list(range(len(images)))


def test_a_sheet_shows_the_images_in_the_order_picked(run, tmp_path, capsys):
    assert cli.run(["coreset", "show", str(run), "--images", "5", "--out", str(tmp_path / "sheets")]) == 0
    table = capsys.readouterr().out
    assert table.startswith("| before epoch | images | seconds |")
    assert "| candidates | 78 |" in table
    assert "| 2 | 16 |" in table
    found, _, images = selections_in(run)
    for file, (_, index, _) in found.items():
        pixels = opened(tmp_path / "sheets" / f"{file.stem}.png")
        assert pixels.shape == (66 + 2, 5 * 66 + 2, 3)
        for k, image in enumerate(index[:5]):
            tile = pixels[2:66:8, 2 + 66 * k : 66 + 66 * k : 8, 0]
            assert (tile == images.pixels[image, 0].numpy()).all()
    assert cli.run(["coreset", "show", str(run)]) == 0
    assert {file.name for file in run.glob("*.png")} == {"coreset-0001.png", "coreset-0002.png"}
    assert opened(run / "coreset-0001.png").shape[1] == 16 * 66 + 2


def opened(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_a_run_without_selections_says_why(run, tmp_path, capsys):
    plain = tmp_path / "plain"
    plain.mkdir()
    recipe = read_json(run / "recipe.json")
    for coreset, words in ((None, "its recipe has no coreset"), ({"warmup": 3}, "due before epoch 3")):
        recipe["recipe"]["coreset"] = coreset
        write_json(plain / "recipe.json", recipe)
        assert cli.run(["coreset", "show", str(plain)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert cli.run(["coreset", "show", str(run), "--images", "0"]) == 2
    assert "a whole number ≥ 1, not 0" in capsys.readouterr().err


def test_other_images_than_the_runs_are_refused(run, tmp_path, capsys):
    for file in [*run.glob("coreset-*.safetensors"), run / "recipe.json"]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    recipe = read_json(run / "recipe.json")
    recipe["recipe"]["data"]["limit"] = 79
    write_json(tmp_path / "recipe.json", recipe)
    assert cli.run(["coreset", "show", str(tmp_path)]) == 2
    assert "put the former images back" in capsys.readouterr().err
