"""Results are named by what was evaluated: another evaluation has another file, and verdicts are of these images."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from fitted import least_squares, write_run
from torch import nn

import unshaken
from unshaken import cli
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result_names import file_suffix
from unshaken.report.grouping import results_in
from unshaken.runs.evaluate import evaluate
from unshaken.runs.verify import recheck

FEW = ["--limit", "40", "--batch-size", "40", "--attack.steps", "2"]
USUAL = Evaluation(PGD(Linf(0.1), steps=20))
CHEAP = Evaluation(PGD(Linf(0.1), steps=2), batch_size=100)


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "encoder" / "slf-digits-1", least_squares(1))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*result*.json"))


def test_a_weaker_or_other_exam_has_a_file_of_its_own(run, capsys):
    for more in ([], ["--attack.ball.eps", "0.02"], ["--attack.restarts", "2"], ["--seed", "3"]):
        assert cli.run(["evaluate", str(run), *FEW, *more]) == 0
    assert names(run) == [
        "result-eps0.02-steps2-first40.json",
        "result-steps2-first40.json",
        "result-steps2-restarts2-first40.json",
        "result-steps2-seed3-first40.json",
    ]
    assert "result-eps0.02-steps2-first40.json holds this result" in capsys.readouterr().err
    assert len(results_in([run])) == 4
    strong = read_json(run / "result-steps2-first40.json")
    assert strong["evaluation"]["attack"]["ball"]["eps"] == 0.1
    assert strong["file"] == "result-steps2-first40"


def test_no_steps_are_no_attack(run, capsys):
    assert cli.run(["evaluate", str(run), "--attack.steps", "0"]) == 2
    assert "0 steps are no attack" in capsys.readouterr().err
    assert names(run) == []


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        (USUAL, ""),
        (replace(USUAL, batch_size=7, corruptions=("fog",), autoattack="standard"), ""),
        (replace(USUAL, autoattack="plus"), "-plus"),
        (replace(USUAL, attack=PGD(L2(0.5), steps=20)), "-l2-eps0.5"),
        (
            replace(USUAL, attack=PGD(Linf(8 / 255), steps=50, rel_step_size=0.1)),
            "-eps8over255-steps50-rel_step_size0.1",
        ),
        (replace(USUAL, attack=PGD(Linf(0.1), steps=20, init="gaussian", restarts=3)), "-restarts3-init-gaussian"),
        (replace(USUAL, attacks="queries", limit=9), "-without-gradients-first9"),
    ],
)
def test_names_say_in_what_a_question_differs(evaluation, words):
    assert file_suffix(evaluation, USUAL) == words


def test_questions_are_joined_where_one_exam_can_ask_them_all():
    fog = replace(USUAL, corruptions=("fog",), severities=(1,))
    assert replace(USUAL, corruptions=("snow",), severities=(1,)).merged_with(fog).corruption_names == ("fog", "snow")
    assert replace(USUAL, corruptions=("fog",), severities=(3,)).merged_with(fog).severities == (1, 3)
    apart = replace(USUAL, corruptions=("snow",), severities=(2,))
    assert apart.merged_with(fog) == apart  # together they would ask for fog at 2 too
    fifteen = replace(USUAL, corruptions=("fifteen",))
    assert fog.merged_with(fifteen).corrupted == fifteen.corrupted
    assert {*replace(fog, corruptions=("fog", "snow")).merged_with(fifteen).corrupted} == {*fifteen.corrupted}
    part = replace(USUAL, autoattack="standard", autoattack_limit=10)
    assert part.merged_with(replace(part, autoattack_limit=20)).autoattack_limit == 20
    assert part.merged_with(replace(part, autoattack_limit=None)).autoattack_limit is None
    assert USUAL.merged_with(part).autoattack_limit == 10


def test_fewer_corruptions_do_not_take_the_place_of_more(run):
    more = evaluate(
        run,
        evaluation=replace(CHEAP, corruptions=("contrast", "brightness"), severities=(1, 5)),
        workspace=unshaken.Workspace(quiet=True),
    )
    less = evaluate(
        run,
        evaluation=replace(CHEAP, corruptions=("contrast",), severities=(5,)),
        workspace=unshaken.Workspace(quiet=True),
    )
    assert less["corruptions"] == more["corruptions"]
    other = evaluate(
        run,
        evaluation=replace(CHEAP, corruptions=("contrast",), severities=(3,)),
        workspace=unshaken.Workspace(quiet=True),
    )
    assert set(other["corruptions"]) == {"contrast"}  # brightness at 3 was not asked for
    kept = [read_json(file) for file in run.glob("earlier-result*.json")]
    assert [result["corruptions"] for result in kept] == [more["corruptions"]]


def test_an_answer_made_otherwise_does_not_take_the_place_of_more(run, capsys):
    """A block's size is such a circumstance: the draws are others."""
    more = evaluate(run, evaluation=replace(CHEAP, corruptions=("contrast",)), workspace=unshaken.Workspace(quiet=True))
    less = evaluate(run, evaluation=replace(CHEAP, batch_size=50), workspace=unshaken.Workspace(quiet=True))
    assert "an earlier result has more scores" in capsys.readouterr().err
    assert read_json(run / "result-steps2.json") == more
    assert read_json(run / f"result-steps2-{less['notes']}.json") == less
    again = evaluate(
        run,
        evaluation=replace(CHEAP, batch_size=50, corruptions=("contrast", "brightness")),
        workspace=unshaken.Workspace(quiet=True),
    )
    assert read_json(run / "result-steps2.json") == again
    assert read_json(run / f"earlier-result-steps2-{more['notes']}.json") == more


@pytest.fixture
def published(tmp_path) -> tuple[Path, Images]:
    folder, rng = tmp_path / "C", numpy.random.default_rng(0)
    folder.mkdir()
    label = rng.integers(0, 2, 20)
    numpy.save(folder / "labels.npy", numpy.tile(label, 5))
    numpy.save(folder / "fog.npy", rng.integers(0, 256, (100, 32, 32, 3), dtype=numpy.uint8))
    return folder, Images(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), label, ("a", "b"), "c", "test")


def flat() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))


def test_verdicts_of_published_images_are_of_these_images(published, tmp_path):
    folder, images = published
    net, evaluation = flat(), Evaluation(PGD(steps=1), corruptions=("fog",), severities=(1,), published=str(folder))

    def ask(evaluation):
        return evaluate(net, images, evaluation, workspace=unshaken.Workspace(root=tmp_path / "out", quiet=True))

    first = ask(evaluation)
    assert ask(evaluation) == first
    old = numpy.load(folder / "fog.npy")
    numpy.save(folder / "fog.npy", 255 - old)
    second = ask(evaluation)
    assert (
        second["corruptions"]["fog"]["1"]["bits"] == ask(replace(evaluation, seed=2))["corruptions"]["fog"]["1"]["bits"]
    )
    assert second["corrupted"]["digests"] != first["corrupted"]["digests"]
    assert second["corruptions"]["fog"]["1"]["bits"] != first["corruptions"]["fog"]["1"]["bits"]
    assert read_json(next((tmp_path / "out").glob("earlier-*"))) == first
    numpy.save(folder / "fog.npy", old)
    assert ask(evaluation)["corruptions"]["fog"]["1"]["bits"] == first["corruptions"]["fog"]["1"]["bits"]
    (folder / "fog.npy").unlink()
    with pytest.raises(ValueError, match="has no fog.npy"):
        ask(evaluation)
    assert "standard" in ask(replace(evaluation, corruptions=(), published=None))


def test_autoattack_on_a_limit_of_its_own(run, monkeypatch):
    """Like the demo's: everything on all images, AutoAttack on the first block; and the receipt holds."""
    monkeypatch.setattr("unshaken.evaluation.protocol.AutoAttack", partial(AutoAttack, steps=5, queries=20, targets=2))
    evaluation = Evaluation(PGD(Linf(0.02), steps=2), "standard", batch_size=4, limit=12, autoattack_limit=3)
    found = evaluate(run, evaluation=evaluation, workspace=unshaken.Workspace(quiet=True))
    assert (found["robust"]["n"], found["autoattack"]["n"], found["autoattack"]["of"]) == (12, 4, 12)
    alone = evaluate(
        run,
        evaluation=replace(evaluation, autoattack_limit=None, until=100.0),
        workspace=unshaken.Workspace(quiet=True),
    )
    assert alone["autoattack"]["bits"] == found["autoattack"]["bits"]  # the same block, attacked alike
    name = "result-eps0.02-steps2-first12"
    before = sorted(run.iterdir())
    assert (
        evaluate(run, evaluation=evaluation, workspace=unshaken.Workspace(quiet=True)) == found
    )  # a second time nothing is added, and nothing moved aside
    assert sorted(run.iterdir()) == before
    held = recheck(run / f"{name}.json", sample=7, seed=1, quiet=True)
    assert held.holds
    assert held.fewer["standard/square"] == 4 < held.n == 8
    old = found | {"evaluation": found["evaluation"] | {"autoattack": "none"}}  # as demos of before were written
    del old["evaluation"]["autoattack_limit"]
    write_json(run / "old.json", old)
    assert recheck(run / "old.json", sample=7, seed=1, quiet=True).agree["standard/square"] == 4


@pytest.mark.parametrize("more", [{"autoattack_limit": 0}, {"autoattack_limit": 9, "until": 1.0}])
def test_a_limit_of_autoattack_is_checked(more):
    with pytest.raises(ValueError, match="autoattack_limit is a "):
        replace(USUAL, autoattack="standard", **more)


def test_a_module_s_answers_are_part_of_its_identity(tmp_path):
    """What is no parameter counts too."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.flip = least_squares(1), 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.flip * self.net(x, "adv")

    net, images = Scaled(), DataSource("digits").load("test")[:40]
    first = evaluate(
        net, images, replace(CHEAP, batch_size=40), workspace=unshaken.Workspace(root=tmp_path, quiet=True)
    )
    net.flip = -1.0
    second = evaluate(
        net, images, replace(CHEAP, batch_size=40), workspace=unshaken.Workspace(root=tmp_path, quiet=True)
    )
    assert second["standard"]["correct"] < first["standard"]["correct"]


def test_an_eps_that_is_not_that_of_training_is_said(run, capsys):
    evaluate(run, evaluation=replace(CHEAP, limit=20))
    assert "pre-trained at" not in capsys.readouterr().err
    about = {"recipe": {"method": {"type": "ACL", "attack": {"ball": {"type": "Linf", "eps": 4 / 255}}}}}
    from unshaken.evaluation.classifier import Classifier

    candidate = Classifier.of_run(run)
    candidate.metadata["pretrain"]["recipe"] |= about["recipe"]
    evaluate(candidate, evaluation=replace(CHEAP, limit=20))
    assert "note: pre-trained at ε = 4/255 (l∞), and evaluated at ε = 0.1 (l∞)" in capsys.readouterr().err
    evaluate(candidate, evaluation=replace(CHEAP, attack=replace(CHEAP.attack, ball=Linf(0.05)), limit=20))
    assert "pre-trained at" not in capsys.readouterr().err  # it was chosen, and is not the set's default
