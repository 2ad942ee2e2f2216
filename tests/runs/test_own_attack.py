"""An attack of one's own takes the place of PGD: checked, named by its code, with the images that it fooled with."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fitted import least_squares, write_run
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

import unshaken
from unshaken import cli
from unshaken.attacks.apgd import APGD
from unshaken.attacks.ball import Ball, Linf
from unshaken.attacks.base import Attack, loss_of
from unshaken.attacks.own import as_attack, name_of
from unshaken.attacks.pgd import PGD, input_gradient
from unshaken.base.json_files import read_json
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch
from unshaken.evaluation.protocol import Evaluation
from unshaken.methods.base import Step
from unshaken.nets.checkpoint import read_tensors
from unshaken.report.cells import adversary

IMAGES = unshaken.DataSource("digits").load("test")[:60]
EXAM = Evaluation(PGD(Linf(0.1), steps=1), batch_size=30)
NET = least_squares(1)
QUIET = unshaken.Workspace(quiet=True)


@dataclass(frozen=True)
class OneStep(Attack):
    ball: Ball = Linf(0.1)

    def __call__(self, model, x: Tensor, y: Tensor | None, key: Key) -> Tensor:
        return self.ball.project(x + self.ball.eps * input_gradient(loss_of(model, y), x).sign(), x)


def step(model, x: Tensor, y: Tensor, key: Key) -> Tensor:
    return OneStep()(model, x, y, key)


def evaluate(attack: object, **options: object) -> dict:
    return unshaken.evaluate(lambda x: NET(x, "adv"), IMAGES, EXAM, QUIET, attack=attack, **options)


def test_an_attack_of_one_s_own_decides_robust_accuracy() -> None:
    x = IMAGES.floats().requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(NET(x, "adv"), IMAGES.label, reduction="sum"), x)
    x_adv = (x + 0.1 * grad.sign()).clamp(0, 1).detach()
    right = [(NET(each, "adv").argmax(1) == IMAGES.label) for each in (x, x_adv)]
    expected = int((right[0] & right[1]).sum())
    assert 0 < expected < int(right[0].sum())
    for attack in (OneStep(), step):
        assert evaluate(attack)["robust"]["correct"] == expected


def test_the_code_and_the_fields_name_a_result(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", NET)
    result = unshaken.evaluate(run, IMAGES, EXAM, QUIET, attack=OneStep())
    assert result["file"].startswith("result-onestep-")
    assert adversary(read_json(run / f"{result['file']}.json")["evaluation"]) == "OneStep l∞ 0.1"
    assert name_of(OneStep(Linf(0.2))) != name_of(OneStep())
    again = Evaluation.read(result["evaluation"])
    assert again.first_attack_names == (name_of(OneStep()),)
    with pytest.raises(ValueError, match="the attack OneStep is not in this program"):
        again.attack(None, None, None, Key(0))
    edited = as_attack(lambda model, x, y, key: x, Linf(0.1)), as_attack(lambda model, x, y, key: x + 0, Linf(0.1))
    assert name_of(edited[0]) != name_of(edited[1])
    assert (run / f"{result['file']}.json").exists()
    assert not (run / "result.json").exists()


SOURCE = """
from dataclasses import dataclass
from unshaken import Attack, Linf
from unshaken.attacks.base import loss_of
from unshaken.attacks.pgd import input_gradient

def step(model, x, y, key):
    return (x + 0.1 * input_gradient(loss_of(model, y), x).sign()).clamp(0, 1)

@dataclass(frozen=True)
class Step(Attack):
    ball: Linf = Linf(0.3)

    def __call__(self, model, x, y, key):
        return self.ball.project(x + self.ball.eps * input_gradient(loss_of(model, y), x).sign(), x)
"""


def test_an_attack_by_its_name_is_evaluated_and_verified(tmp_path: Path, monkeypatch, capsys) -> None:
    run = write_run(tmp_path / "run", NET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    words = ["evaluate", "run", "--limit", "60", "--attack.ball.eps", "0.1"]
    for name in ("step", "Step"):  # the class gets the ball of the evaluation
        assert cli.run([*words, "--attack", f"mine.py:{name}"]) == 0
    function, kind = (read_json(next(run.glob(f"result-{each}-*.json"))) for each in ("step", "Step".lower()))
    assert function["robust"]["correct"] == kind["robust"]["correct"] == evaluate(OneStep())["robust"]["correct"]
    assert cli.run([*words, "--attack", "mine.py:nothing"]) == 2
    assert cli.run([*words, "--attack", "PGD"]) == 2
    assert "mine.py has no 'nothing'" in (said := capsys.readouterr().err)
    assert "--attack names an attack of your own, mine.py:attack, and not 'PGD'" in said


def test_a_result_of_an_own_attack_is_verified_by_its_code(tmp_path: Path, monkeypatch, capsys) -> None:
    run = write_run(tmp_path / "run", NET)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    assert cli.run(["evaluate", "run", "--limit", "60", "--attack.ball.eps", "0.1", "--attack", "mine.py:step"]) == 0
    (file,) = map(str, run.glob("result-step-*.json"))
    how = ["--sample", "10", "--runtime.device", "cpu"]
    assert cli.run(["verify", file, *how]) == 2
    assert "step, an attack of somebody's own, whose code is not in it: name it by --attack" in capsys.readouterr().err
    assert cli.run(["verify", file, *how, "--attack", "mine.py:step"]) == 0
    assert ": agrees" in capsys.readouterr().out
    assert cli.run(["report", "run"]) == 0
    assert "step l∞ 0.1" in capsys.readouterr().out
    assert unshaken.verify(file, sample=10, attack="mine.py:step", quiet=True).holds
    assert cli.run(["verify", file, *how, "--attack", "mine.py:Step"]) == 2
    assert "its code or its fields are not the same" in capsys.readouterr().err


def test_an_attack_of_the_library_stands_there_too() -> None:
    result = evaluate(APGD(Linf(0.1), steps=3))
    assert Evaluation.read(result["evaluation"]).attack == APGD(Linf(0.1), steps=3)


def test_images_outside_the_ball_are_refused() -> None:
    cases = {
        "left the ball: 25 of 25 images are not within ε = 0.1": lambda model, x, y, key: x + 0.2,
        "has to return images of shape": lambda model, x, y, key: x[:1],
        "left the ball: ": lambda model, x, y, key: x * torch.nan,
    }
    for words, attack in cases.items():
        with pytest.raises(ValueError, match=words):
            evaluate(attack)
    with pytest.raises(ValueError, match="OneStep cannot be: give an object of it"):
        evaluate(OneStep)
    with pytest.raises(ValueError, match="and int cannot be"):
        evaluate(3)


def test_examples_are_the_images_that_were_judged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", NET)
    result = unshaken.evaluate(run, IMAGES, EXAM, QUIET, attack=OneStep(), examples=10)
    found = result.examples
    assert 2 <= len(found) <= 10
    assert torch.equal(found.clean, IMAGES.floats(found.index))
    assert float((found.adversarial - found.clean).abs().max()) == pytest.approx(0.1)
    assert torch.equal(NET(found.clean, "adv").argmax(1), found.label)
    assert torch.equal(NET(found.adversarial, "adv").argmax(1), found.answer)
    assert bool((found.answer != found.label).all())
    assert found.captions[0] == f"{found.label[0]} → {found.answer[0]}"
    tensors, about = read_tensors(run / f"{result['file']}-examples.safetensors")
    assert torch.equal(tensors["adversarial"], found.adversarial)
    assert about["names"] == list(IMAGES.names)
    with Image.open(run / f"{result['file']}-examples.png") as sheet:
        assert sheet.size[1] > 100
    plain = unshaken.evaluate(run, IMAGES, EXAM, QUIET)
    assert plain.examples is None
    robust = plain["robust"]
    assert f"<td>{robust['correct']} of {robust['n']}</td>" in plain._repr_html_()
    said: list[str] = []
    plain._repr_pretty_(SimpleNamespace(text=said.append), False)  # as IPython calls it in a terminal
    assert f"{robust['correct']} of {robust['n']} images" in said[0]
    assert "verdicts" not in said[0]
    assert len(said[0]) < 500


def test_the_same_attack_trains() -> None:
    recipe = unshaken.recipe("acl/digits")
    seen = []

    @dataclass(frozen=True)
    class Noted(OneStep):
        def __call__(self, model, x: Tensor, y: Tensor | None, key: Key) -> Tensor:
            seen.append(y)
            return super().__call__(model, x, y, key)

    method = replace(recipe.method, attack=Noted())
    net = recipe.build_network()
    views = IMAGES.floats(slice(0, 16)).view(2, 8, 1, 8, 8)
    batch = Batch(views, views[0], torch.arange(8), torch.arange(8))
    Step(method, net)(batch, Clock(0, 0, 0.1, 1), Key(0))
    assert seen == [None]
