"""`unshaken evaluate` over several runs, and for published networks on images of one's own."""

import json
from pathlib import Path

import pytest
import torch
from fitted import least_squares, write_run
from PIL import Image
from torch import nn

from unshaken import cli
from unshaken.evaluation.class_map import index_of, normalised, read_map
from unshaken.evaluation.classifier import Classifier
from unshaken.runs.verify import recheck

FEW = ["--limit", "30", "--attack.steps", "1"]


def test_one_run_that_cannot_be_judged_does_not_stop_the_others(tmp_path, capsys):
    for k, name in enumerate(("a", "b", "c")):
        write_run(tmp_path / "runs" / name, least_squares(k))
    recipe = tmp_path / "runs" / "a" / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"name": "digits"', f'"name": "{tmp_path}/gone"'))
    assert cli.run(["evaluate", str(tmp_path / "runs"), *FEW]) == 2
    shown = capsys.readouterr()
    assert "unshaken: 1 of 3 runs could not be evaluated" in shown.err
    assert f"unshaken: {tmp_path}/runs/a:" in shown.err
    assert shown.out.count("| SLF |") == 2
    for name in ("b", "c"):
        assert list((tmp_path / "runs" / name).glob("result*.json"))
    assert cli.run(["evaluate", str(tmp_path / "runs" / "a"), *FEW]) == 2
    assert "could not be evaluated" not in capsys.readouterr().err


def test_numbers_of_single_corruptions_are_printed(tmp_path, capsys):
    run = write_run(tmp_path / "run", least_squares(1))
    args = ["--corruptions", "fog", "contrast", "--severities", "1", "5"]
    assert cli.run(["evaluate", str(run), *FEW, *args]) == 0
    out = capsys.readouterr().out
    result = json.loads(next(run.glob("result*.json")).read_text())
    mean = sum(result["corruptions"]["fog"][level]["percent"] for level in "15") / 2
    assert f"fog {mean:.1f} % (at 1, 5), contrast" in out
    assert "| constant |" in out


class Brightness(nn.Module):
    """Five logits: the nearer the mean of the pixels is to k / 4, the higher."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(0, 1, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(x.mean((1, 2, 3))[:, None] - self.levels).abs()


WORDS = (
    ("n01", "black"),
    ("n02", "dark grey"),
    ("n03", "grey", "mid-grey"),
    ("n04", "light grey"),
    ("n05", "white", "grey"),
)


@pytest.fixture
def named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def of_name(name: str) -> tuple[Classifier, int]:
        candidate = Classifier.of_module(Brightness(), name, Path("runs/timm-brightness"))
        return Classifier(**vars(candidate) | {"words": WORDS, "count": 5}), 8

    monkeypatch.setattr(Classifier, "of_name", of_name)


def photos(root: Path, **levels: int) -> Path:
    for part in ("train", "test"):
        for name, level in levels.items():
            folder = root / "photos" / part / name.replace("_", " ")
            folder.mkdir(parents=True)
            for k in range(6):
                Image.new("RGB", (8, 8), (level, level, level + k)).save(folder / f"{k}.png")
    return root / "photos"


def evaluated(folder: Path, *more: str) -> dict:
    assert cli.run(["evaluate", "timm/brightness", "--data", str(folder), "--attack.steps", "1", *more]) == 0
    (file,) = Path("runs/timm-brightness/photos").glob("result*.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("names", [("white", "Dark_Grey"), ("n05", "n02")])
def test_folders_called_by_class_names_or_wordnet_ids_are_mapped(names, named, tmp_path, capsys):
    folder = photos(tmp_path, **{names[0]: 240, names[1]: 70})
    found = evaluated(folder)
    assert found["standard"]["percent"] == 100
    assert sorted(found["finetune"]["recipe"]["classes"].values()) == [1, 4]
    assert "2 of 5 logits answer for the classes" in capsys.readouterr().err
    (file,) = Path("runs/timm-brightness/photos").glob("result*.json")
    assert recheck(file, sample=4, data=str(folder), quiet=True).holds


def test_a_file_says_which_class_is_which_logit(named, tmp_path, capsys):
    folder = photos(tmp_path, day=240, night=5)
    args = ["evaluate", "timm/brightness", "--data", str(folder), "--attack.steps", "1"]
    assert cli.run(args) == 2
    assert "none of these 2 by name (day, night, ...)" in capsys.readouterr().err
    (tmp_path / "map.json").write_text('{"day": "white", "night": 0}')
    assert evaluated(folder, "--classes", "map.json")["standard"]["percent"] == 100


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "holds a list"),
        ('{"a": 0}', "no entry for the class 'b'"),
        ('{"a": 0, "b": 5}', "a logit's number is 0 to 4"),
        ('{"a": 0, "b": true}', "a logit's number is 0 to 4"),
        ('{"a": 0, "b": "purple"}', "which is not a class of the network"),
        ('{"a": 0, "b": 0}', "are both logit 0"),
    ],
)
def test_mistakes_in_the_file(content, words, tmp_path):
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_map(tmp_path / "map.json", ("a", "b"), WORDS, 5)


def test_names_that_are_not_all_known_or_not_clear():
    assert index_of(("cat", "dog"), WORDS) is None
    assert index_of(("mid grey", "WHITE"), WORDS) == [2, 4]
    with pytest.raises(ValueError, match="no class 'dog'.*--classes map.json"):
        index_of(("white", "dog"), WORDS)
    with pytest.raises(ValueError, match="2 classes 'grey'"):
        index_of(("white", "grey"), WORDS)
    with pytest.raises(ValueError, match="are both logit 4"):
        index_of(("white", "n05"), WORDS)
    assert normalised("great_white-Shark") == "great white shark"
