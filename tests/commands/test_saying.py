"""What commands say before they begin: the work, the time, what a change leaves as it was, what is trained first."""

import ast
import re
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.commands.board import BoardOptions, SubmitOptions
from unshaken.commands.coreset import CoresetOptions
from unshaken.commands.demo import DemoOptions
from unshaken.commands.doctor import DoctorOptions
from unshaken.commands.embed import EmbedOptions
from unshaken.commands.evaluate import EvaluateOptions
from unshaken.commands.finetune import FinetuneOptions
from unshaken.commands.frontier import FrontierOptions
from unshaken.commands.interop import VerifyOptions
from unshaken.commands.pack import PackOptions
from unshaken.commands.plan import PlanOptions
from unshaken.commands.pretrain import PretrainOptions, on_its_split, remark
from unshaken.commands.robustify import RobustifyOptions
from unshaken.commands.text_embeddings import TextEmbeddingsOptions
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.interop.export import ExportOptions
from unshaken.interop.import_checkpoint import ImportOptions
from unshaken.nets.backbone import Backbone
from unshaken.options import flags, parse
from unshaken.options.aliases import ALIASES, ANSWERS
from unshaken.options.fields import components
from unshaken.recipes.autolora import AutoFinetune
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.robust import robust_recipe
from unshaken.report.frontier import FrontierFigureOptions
from unshaken.report.table import ReportOptions
from unshaken.runs.frontier import Frontier, coreset_pair
from unshaken.train import workload as pace
from unshaken.train.workload import Pace

evaluate = import_module("unshaken.commands.evaluate")
SOURCE = Path(unshaken.__file__).parent
QUICK = ["--epochs", "1", "--batch-size", "32", "--data.limit", "64", "--method.attack.steps", "1"]


def photos(folder, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for k in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{k}.png")


def test_the_work_is_said_before_it_begins(tmp_path, capsys):
    assert cli.run(["pretrain", "acl/digits", *QUICK, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "64 images of 8 pixels (digits, train); 1 epoch of 2 steps, 2 steps of 32 images in all" in said
    assert "90,336 weights, float32 on cpu" in said


def test_the_time_is_told_once_the_first_steps_are_measured(capsys, monkeypatch):
    """Ten epochs of a step of 100 s: after two measured steps seven are left, which is 11 min; it is told once."""
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr(pace, "monotonic", lambda: float(next(now)))
    told = Pace("acl-photos", epochs=10, quiet=False)
    for done in range(1, 6):
        told.step(float(done))
    said = capsys.readouterr().err
    assert re.fullmatch(r"acl-photos: about \d+ min at this pace\n", said)
    long = Pace("acl-photos", epochs=1000, quiet=False)
    for done in range(1, 6):
        long.step(float(done))
    assert "h" in (said := capsys.readouterr().err)
    assert "fewer epochs" in said
    assert "; an hour is about 24 of its 1,000 epochs (--epochs 24); " in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("seconds", "words"), [(3600.0, "about 1 of its 9 epochs"), (7200.0, "takes about 2 h 0 min")])
def test_what_an_hour_reaches(seconds, words):
    assert words in pace.hourly(seconds, 9)


def test_a_short_run_tells_no_time(capsys):
    short = Pace("acl", epochs=3, quiet=False)
    for done in range(1, 4):
        short.step(float(done))
        time.sleep(0.001)
    assert capsys.readouterr().err == ""


def test_what_is_trained_first_is_said(tmp_path, capsys, monkeypatch):
    def first(recipe, *_):
        assert recipe.name == "simclr"
        raise ValueError("here it would be trained")

    monkeypatch.setattr(import_module("unshaken.runs.pretrain"), "pretrain_encoder", first)
    assert cli.run(["pretrain", "advcl/digits", "--epochs", "1", "--out", str(tmp_path)]) == 2
    assert "advcl starts from simclr/digits, 30 epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--optimizer", "AdamW"], "AdamW keeps the rate of LARS, 5: --lr.peak sets another"),
        (["--optimizer", "AdamW", "--lr.peak", "1e-3"], ""),
        (["--optimizer", "LARS"], ""),
        (["--epochs", "2"], "--lr is made for more than 3 epochs, but there are 2"),
    ],
)
def test_what_a_change_leaves_as_it_was(args, words, capsys):
    default = PretrainOptions(unshaken.recipe("simclr/digits"))
    remark(parse(default, args, "test").recipe, default.recipe)
    said = capsys.readouterr().err
    assert words in said if words else not said


def test_milestones_that_a_run_does_not_reach_are_said(capsys):
    remark(replace(Finetune(), epochs=5), Finetune())
    assert "the rate never falls at 10, 20, for the run has 5 epochs" in capsys.readouterr().err


def test_a_frontier_takes_images_of_one_s_own_as_pre_training_does(tmp_path, capsys, monkeypatch):
    """--data is understood, and labels are asked for before anything is trained."""
    photos(tmp_path / "photos", 12)
    for name in ("cats", "dogs"):
        photos(tmp_path / "labelled" / name, 10)
    monkeypatch.chdir(tmp_path)
    train = import_module("unshaken.runs.pretrain")
    monkeypatch.setattr(train, "pretrain_encoder", lambda *_: pytest.fail("nothing is to be trained"))
    assert cli.run(["frontier", "acl", "--data", "photos"]) == 2
    assert "has no labels, and fine-tuning needs them" in capsys.readouterr().err
    found = []
    monkeypatch.setattr(Frontier, "run", lambda self, *_, **__: found.append(self) or iter(()))
    cli.run(["frontier", "acl", "--data", "labelled"])
    assert found[0].part.data.name == "labelled"


def test_other_images_than_stl10_have_no_unlabeled_split():
    stl = unshaken.recipe("acl/stl10")
    assert on_its_split(stl, stl).split == "unlabeled"
    assert on_its_split(replace(stl, data=DataSource("photos")), stl).split == "train"


def test_a_folder_with_and_without_a_slash_is_one_set():
    assert DataSource("photos/") == DataSource("photos")
    assert (DataSource("./cifar10").name, DataSource("/").name) == ("./cifar10", "/")


OPTION = re.compile(r"--[a-z][a-z-]*(?:\.[a-z-]+)*")
OF_GIT = {"--format", "--name-only", "--diff-filter", "--relative"}
NOT_OURS = {"--ntasks", "--index-url", "--help", "--version", "--no", "--flag", "--logdir", *OF_GIT}
"""Of srun, pip, TensorBoard and git, and those that every verb has."""


def named() -> dict[str, set[str]]:
    """Every option that a text of the source names, and where."""
    found: dict[str, set[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        if file.parent.name == "charts":  # its dashes are names of colours in CSS
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for option in OPTION.findall(node.value):
                    found.setdefault(option.rstrip("-."), set()).add(file.name)
    return found


def test_messages_and_pages_of_help_name_options_that_there_are():
    """Each is shown by the help of some verb, or by its own text where a verb reads it by itself."""
    defaults = [PretrainOptions(unshaken.recipe(f"{name}/digits")) for name in RECIPES]
    known = {flag for default in defaults for flag in (*flags(default), *components(default))}
    for kind in (
        FinetuneOptions(Finetune()),
        FinetuneOptions(AutoFinetune()),
        EvaluateOptions(Evaluation(), DataSource("digits")),
    ):
        known |= {*flags(kind), *components(kind)}
    others = (
        evaluate.CompareOptions(),
        ImportOptions(),
        ExportOptions(),
        VerifyOptions(),
        CoresetOptions(),
        DemoOptions(),
        ReportOptions(),
        FrontierFigureOptions(),
        BoardOptions(),
        SubmitOptions(),
        EmbedOptions(DataSource("digits")),
        TextEmbeddingsOptions(),
        PackOptions(),
        RobustifyOptions(robust_recipe("deacl", "ENCODER", Backbone(), DataSource("digits"))),
    )
    known |= {flag for other in others for flag in flags(other)}
    known |= {
        *flags(FrontierOptions(coreset_pair("acl/digits")[0])),
        *flags(DoctorOptions(DataSource("digits"), Linf())),
    }
    known |= {*flags(PlanOptions(unshaken.recipe("acl/digits"))), *READ_BY_THEMSELVES, *NOT_OURS}
    known |= {f"--{name}" for name in ALIASES} | {f"--{name}" for name in ANSWERS}
    wrong = {option: files for option, files in named().items() if option not in known}
    assert not wrong


READ_BY_THEMSELVES = {
    *("--mode", "--protocol", "--objective", "--data", "--dataset", "--lr.value", "--optimizer.momentum"),
    *("--config", "--quiet", "--json", "--csv", "--recipe", "--attack", "--optimizer.args"),
}
"""Options that a verb reads before the others, and those of kinds that a part can be exchanged for."""
