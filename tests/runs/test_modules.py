"""Modules of many kinds are evaluated: any output, any precision, in-place steps, no gradients, functions."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, replace
from functools import partial

import numpy
import pytest
import torch
from fitted import least_squares
from torch import Tensor, nn

import unshaken
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.data.source import DataSource
from unshaken.evaluation.adapter import MASKED, Adapter
from unshaken.evaluation.protocol import Evaluation
from unshaken.report.table import rows

IMAGES = DataSource("digits").load("test")[:60]
EXAM = Evaluation(PGD(Linf(0.05), steps=3), batch_size=60)
NET = least_squares(1)


def logits(x: Tensor) -> Tensor:
    return NET(x, "adv")


def features(x: Tensor) -> Tensor:
    return NET.features(x, "adv")


PLAIN = unshaken.evaluate(logits, IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True))


class ModelOutput(OrderedDict):
    """As transformers has it: entries are attributes too."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


@dataclass
class Answer:
    hidden: Tensor
    logits: Tensor


Pair = namedtuple("Pair", ["features", "out"])
ANSWERS = {
    "mapping": lambda x: {"features": features(x), "logits": logits(x)},
    "ModelOutput": lambda x: ModelOutput(loss=None, logits=logits(x), hidden=(features(x),)),
    "tuple": lambda x: (features(x), logits(x)),
    "list": lambda x: [logits(x), features(x), torch.zeros(())],
    "named tuple": lambda x: Pair(features(x), logits(x)),
    "dataclass": lambda x: Answer(features(x), logits(x)),
    "nested": lambda x: {"aux": None, "head": {"pred": logits(x)}},
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_logits_are_found_in_any_answer(answer):
    found = unshaken.evaluate(answer, IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True))
    assert found["standard"]["bits"] == PLAIN["standard"]["bits"]
    assert found["robust"]["bits"] == PLAIN["robust"]["bits"]


def test_a_guess_among_answers_is_said(capsys):
    unshaken.evaluate(lambda x: (logits(x), logits(x) * 0), IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True))
    assert "[0] is taken for the logits, not [1]" in capsys.readouterr().err
    found = unshaken.evaluate(
        lambda x: {"aux": logits(x) * 0, "logits": logits(x)}, IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True)
    )
    assert found["standard"] | {"seconds": 0} == PLAIN["standard"] | {"seconds": 0}


@pytest.mark.parametrize("answer", [lambda x: {"f": features(x)}, lambda x: (), lambda x: "cat"])
def test_answers_without_logits_are_refused_in_one_line(answer):
    with pytest.raises(ValueError, match=r"none of these can be logits \(N, 10\)"):
        unshaken.evaluate(answer, IMAGES, EXAM)


class Linear(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        data = DataSource("digits").load("train")
        inverse = torch.linalg.pinv(data.floats().flatten(1).double(), rtol=1e-2)
        self.weight = nn.Parameter((inverse @ nn.functional.one_hot(data.label, 10).double()).T.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_is_asked_in_its_own_precision(dtype):
    net = Linear(dtype)
    found = unshaken.evaluate(net, IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True))
    expected = (IMAGES.floats().to(dtype).flatten(1) @ net.weight.T).float().argmax(1) == IMAGES.label
    assert found["standard"]["correct"] == int(expected.sum())
    assert net.weight.dtype == dtype


class InPlace(Linear):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5)
        x /= 0.25
        return super().forward(x)


class Outside(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.5) / 0.25)


def test_a_network_may_change_its_input():
    found, expected = (
        unshaken.evaluate(net(), IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True)) for net in (InPlace, Outside)
    )
    assert found["standard"]["bits"] == expected["standard"]["bits"]
    assert found["robust"]["bits"] == expected["robust"]["bits"]


class NoGrad(Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


LINEAR = Linear()


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.flatten(1).numpy() @ LINEAR.weight.detach().numpy().T)


@pytest.mark.parametrize(
    "net", [NoGrad(), through_numpy, lambda x: LINEAR(x.detach())], ids=["no_grad", "numpy", "detach"]
)
def test_without_gradients_there_are_attacks_without(net, capsys, tmp_path):
    found = unshaken.evaluate(net, IMAGES, replace(EXAM, queries=50), workspace=unshaken.Workspace(root=tmp_path))
    assert "this network gives no gradient" in capsys.readouterr().err
    expected = unshaken.evaluate(Linear(), IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True))
    assert found["standard"]["bits"] == expected["standard"]["bits"]
    assert found["robust"]["correct"] < found["standard"]["correct"]
    assert found["evaluation"]["attacks"] == "queries"
    assert list(tmp_path.glob("result-*without-gradients-queries50.json"))
    assert "Square-50 l∞" in " ".join(rows([found])[0])


def test_autoattack_without_gradients_is_square_alone():
    evaluation = Evaluation(autoattack="standard", attacks="queries")
    assert [part.name for part in evaluation.stages] == ["clean", "square-1000", "standard/square"]
    stages = Evaluation(autoattack="rand", attacks="queries").stages
    assert [stage.name for stage in stages] == ["clean", "square-1000", "rand/square"]


class Extra(Linear):
    def get_extra_state(self) -> dict:
        return {"version": 3, "scales": [1.0]}

    def set_extra_state(self, state: dict) -> None:
        pass


def test_a_module_with_an_extra_state(tmp_path):
    found = unshaken.evaluate(Extra(), IMAGES, EXAM, workspace=unshaken.Workspace(root=tmp_path, quiet=True))
    assert (
        found["standard"]["correct"]
        == unshaken.evaluate(Linear(), IMAGES, EXAM, workspace=unshaken.Workspace(quiet=True))["standard"]["correct"]
    )


def test_a_plain_function_and_its_verdicts(tmp_path):
    """Two functions in one folder do not share verdicts, and one finds its own again."""
    first = unshaken.evaluate(logits, IMAGES, EXAM, workspace=unshaken.Workspace(root=tmp_path, quiet=True))
    assert first["robust"] | {"seconds": 0} == PLAIN["robust"] | {"seconds": 0}
    assert unshaken.evaluate(logits, IMAGES, EXAM, workspace=unshaken.Workspace(root=tmp_path, quiet=True)) == first
    second = unshaken.evaluate(
        lambda x: -logits(x), IMAGES, EXAM, workspace=unshaken.Workspace(root=tmp_path, quiet=True)
    )
    assert second["standard"]["bits"] != first["standard"]["bits"]
    with pytest.raises(ValueError, match="a run, a module or a function, not a int"):
        unshaken.evaluate(3, IMAGES, EXAM)


X, Y = IMAGES.floats(), IMAGES.label


@pytest.mark.parametrize(
    "pair",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        (X.double().numpy(), Y.float()),
        (IMAGES.pixels, Y.int()),
        (IMAGES.pixels.numpy().transpose(0, 2, 3, 1), Y.tolist()),
        (list(X), [float(y) for y in Y]),
        (IMAGES.pixels[:, 0].numpy(), Y.to(torch.uint8)),
        [X * 255, Y],
    ],
    ids=["tensors", "arrays", "doubles", "int32", "last", "lists", "grey", "levels"],
)
def test_images_and_labels_of_any_type(pair):
    found = unshaken.evaluate(logits, pair, EXAM, workspace=unshaken.Workspace(quiet=True))
    assert found["robust"]["bits"] == PLAIN["robust"]["bits"]
    assert found["data"]["n"] == 60


@pytest.mark.parametrize("y", [Y.float(), Y.int(), Y.tolist(), Y.numpy().astype(numpy.float64)])
def test_image_sets_take_labels_of_any_type(y):
    images = unshaken.Images(IMAGES.pixels, y, IMAGES.names, "digits", "test")
    assert torch.equal(images.label, Y)
    assert images.digest == IMAGES.digest


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X - 0.5, Y, "give images in"),
        (X * 1.5, Y, "give images in"),
        (X * float("nan"), Y, "not finite numbers"),
        (X, Y + 0.5, "labels must be whole numbers"),
        (X, Y[:5], "60 images need 60 labels"),
        (X, Y - 1, "counted from 0"),
        (X.flatten(1), Y, "images must have the shape"),
        ([[1], [2, 3]], Y, "cannot be read as one array"),
    ],
)
def test_what_cannot_be_images_and_labels(x, y, words):
    with pytest.raises(ValueError, match=words):
        unshaken.evaluate(logits, (x, y), EXAM)


def test_rounding_is_said(capsys):
    unshaken.Images.of(X * 0.9, Y)
    assert "the images are rounded to 8 bits" in capsys.readouterr().err
    unshaken.Images.of(X, Y)
    assert capsys.readouterr().err == ""


def test_masked_classes_have_logits_of_minus_infinity(monkeypatch):
    """Twelve classes of which two are masked: verdicts and attacks are those without them."""
    masked = lambda x: torch.cat([logits(x), torch.full((len(x), 2), -torch.inf)], 1)  # noqa: E731
    wide = unshaken.Images(IMAGES.pixels, Y, (*IMAGES.names, "k", "l"), "digits", "test")
    found = unshaken.evaluate(masked, wide, EXAM, workspace=unshaken.Workspace(quiet=True))
    assert found["standard"]["bits"] == PLAIN["standard"]["bits"]
    assert found["robust"]["bits"] == PLAIN["robust"]["bits"]
    short = partial(AutoAttack, steps=5, queries=20, targets=2)
    monkeypatch.setattr("unshaken.evaluation.protocol.AutoAttack", short)
    full = Evaluation(PGD(Linf(0.05), steps=3), "standard", batch_size=16, limit=16)
    assert unshaken.evaluate(masked, wide, full, workspace=unshaken.Workspace(quiet=True))["autoattack"]["n"] == 16


def test_a_masked_class_has_a_low_finite_logit_and_the_others_keep_theirs():
    z = Adapter(lambda x: torch.tensor([[3.0, 1.0, -torch.inf], [-torch.inf, -torch.inf, -torch.inf]]))(
        IMAGES.floats()[:2]
    )
    assert z[0].tolist() == [3.0, 1.0, 1.0 - MASKED]
    assert z[1].isneginf().all()  # nothing is left to be lower than


def test_a_constant_answer_is_beside_the_scores(capsys):
    found = unshaken.evaluate(
        lambda x: torch.eye(10)[torch.zeros(len(x), dtype=torch.long)] + 0 * x.sum(), IMAGES, EXAM
    )
    counts = torch.bincount(Y)
    assert found["constant"] == {
        "class": IMAGES.names[int(counts.argmax())],
        "correct": int(counts.max()),
        "n": 60,
        "percent": round(100 * int(counts.max()) / 60, 2),
    }
    assert "SA and RA say little" in capsys.readouterr().err
