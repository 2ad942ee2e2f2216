"""The l1 ball: its projection against a slow definition, attacks against closed forms and the authors' code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unshaken.attacks.apgd import APGD
from unshaken.attacks.apgd_l1 import APGDL1
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L1, in_words, sparse_direction
from unshaken.attacks.base import Model
from unshaken.attacks.fab import FAB
from unshaken.attacks.pgd import PGD
from unshaken.attacks.square import Square
from unshaken.base.rng import Key
from unshaken.evaluation.protocol import Evaluation

EPS = 0.8


def drawn(*shape: int, key: str = "x") -> Tensor:
    return torch.rand(shape, generator=Key(key).on("cpu"))


def slowly_projected(point: Tensor, x: Tensor, eps: float) -> Tensor:
    """One image in float64: λ by 200 bisections of Σ clip(|d| − λ, 0, room) = eps."""
    d = (point - x).double().flatten().tolist()
    rooms = [1 - v if each > 0 else v for v, each in zip(x.double().flatten().tolist(), d, strict=True)]

    def sizes(level: float) -> list[float]:
        return [min(max(abs(each) - level, 0.0), room) for each, room in zip(d, rooms, strict=True)]

    low, high = 0.0, max(map(abs, d))
    if sum(sizes(0.0)) <= eps:
        high = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(sizes(middle)) > eps else (low, middle)
    moved = [size * (1 if each > 0 else -1) for size, each in zip(sizes(high), d, strict=True)]
    return x.double() + torch.tensor(moved, dtype=torch.float64).view(x.shape)


@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0])
@pytest.mark.parametrize("ends", [False, True])
def test_the_projection_is_the_nearest_point(spread, ends):
    x = drawn(6, 3, 4, 5)
    x = x.round() if ends else x
    noise = torch.randn(x.shape, generator=Key("n").on("cpu"))
    found = L1(EPS).project(x + spread * noise, x)
    for k in range(len(x)):
        expected = slowly_projected((x + spread * noise)[k], x[k], EPS)
        assert torch.allclose(found[k].double(), expected, atol=1e-6)
    assert float(L1(EPS).distance(found, x).max()) <= EPS * (1 + 1e-5)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(L1(EPS).project(found, x), found) or torch.allclose(L1(EPS).project(found, x), found, atol=1e-6)


def test_a_pixel_that_does_not_move_keeps_its_bits():
    x = drawn(4, 3, 4, 5)
    found = L1(0.1).project(x + torch.randn(x.shape, generator=Key("n").on("cpu")), x)
    assert 0 < int((found != x).sum()) < 30


def test_samples_are_uniform_in_the_ball():
    """In n dimensions the share within half the radius is 2⁻ⁿ, and all signs are equally likely."""
    x = torch.full((4000, 1, 1, 3), 0.5)
    delta = L1(0.4).sample(x, Key(0).on("cpu")) - x
    assert float(L1(0.4).distance(x + delta, x).max()) <= 0.4 * (1 + 1e-5)
    assert float((delta.abs().flatten(1).sum(1) < 0.2).double().mean()) == pytest.approx(1 / 8, abs=0.02)
    assert float((delta > 0).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_a_step_changes_the_largest_entries_alone():
    grad = torch.tensor([3.0, -5.0, 1.0, 0.0, -2.0, 4.0]).view(1, 1, 1, 6)
    assert sparse_direction(grad, 0.5).flatten().tolist() == pytest.approx([1 / 3, -1 / 3, 0, 0, 0, 1 / 3])
    moved = L1(2.0, share=0.01).ascend(torch.zeros_like(grad), grad, 0.5)
    assert moved.flatten().tolist() == [0, -0.5, 0, 0, 0, 0]
    each = sparse_direction(grad.repeat(2, 1, 1, 1), torch.tensor([[1.0], [0.2]]))
    assert (each != 0).flatten(1).sum(1).tolist() == [5, 2]


def best_gain(w: Tensor, x: Tensor, eps: float) -> Tensor:
    """The most that ⟨w, δ⟩ can be in the ball and in [0, 1]: the largest |w| first, each as far as its room."""
    gains = []
    for image in x.flatten(1).double():
        rooms = torch.where(w > 0, 1 - image, image)
        left, gain = eps, 0.0
        for at in w.abs().argsort(descending=True).tolist():
            step = min(left, float(rooms[at]))
            gain, left = gain + step * float(w[at].abs()), left - step
        gains.append(gain)
    return torch.tensor(gains)


def linear(count: int = 60) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two classes by the sign of ⟨w, x⟩ + b; images, labels, margins and best gains."""
    w = torch.randn(48, generator=Key("w").on("cpu"), dtype=torch.float64)
    x = drawn(count, 3, 4, 4)
    score = x.flatten(1).double() @ w
    score = score - score.median()
    y = (score < 0).long()
    gain = torch.where(y == 0, best_gain(-w, x, EPS), best_gain(w, x, EPS))
    return w, x, y, score.abs() - gain


def model_of(w: Tensor, x: Tensor) -> Model:
    middle = (x.flatten(1).double() @ w).median()

    def logits(images: Tensor) -> Tensor:
        score = (images.flatten(1) @ w.to(images.dtype)) - middle.to(images.dtype)
        return torch.stack([score / 2, -score / 2], 1)

    return Model(logits)


@pytest.mark.parametrize(
    "attack", [APGDL1(L1(EPS), steps=60), AutoAttack(L1(EPS), "apgd", steps=60)], ids=["apgd", "autoattack"]
)
def test_apgd_reaches_the_closed_form(attack):
    w, x, y, slack = linear()
    x_adv = attack(model_of(w, x), x, y, Key(0))
    robust = (x_adv == x).flatten(1).all(1)
    assert 10 < int((slack > 0).sum()) < 50
    clear = slack.abs() > 0.04 * slack.abs().max()  # steps are no shorter than ε / 10
    assert torch.equal(robust[clear], (slack > 0)[clear])
    assert float(L1(EPS).distance(x_adv, x).max()) <= EPS * (1 + 1e-5)


def test_pgd_comes_near_it():
    w, x, y, _ = linear()
    logits = model_of(w, x).search
    signs = 1 - 2 * y
    x_adv = PGD(L1(EPS, share=0.05), steps=40).maximise(lambda z: -(logits(z)[:, 0] * 2 * signs), x, Key(0).on("cpu"))
    gained = ((logits(x) - logits(x_adv))[:, 0] * 2 * signs).double()
    best = torch.where(y == 0, best_gain(-w, x, EPS), best_gain(w, x, EPS))
    assert bool((gained <= best * (1 + 1e-4)).all())
    assert float((gained / best).mean()) > 0.9


@pytest.mark.parametrize(("steps", "equal"), [(5, 6), (50, 4)])
def test_a_phase_is_that_of_the_authors_code(steps, equal):
    """From one start: the points with the highest loss. Rounding in few images decides whether a pixel has changed."""
    theirs = pytest.importorskip("pyautoattack.autopgd_base")
    weight = torch.randn(5, 48, generator=Key("w").on("cpu"))

    def logits(x: Tensor) -> Tensor:
        return (6 * (x - 0.4).flatten(1) @ weight.T / 7).sin() + 10 * torch.eye(5)[0]

    x, y = drawn(6, 3, 4, 4), torch.zeros(6, dtype=torch.long)
    ball = L1(2.0)
    start = ball.project(x + torch.randn(x.shape, generator=Key("n").on("cpu")), x)
    other = theirs.APGDAttack(logits, n_iter=steps, norm="L1", eps=2.0, loss="ce", device="cpu")
    other.init_hyperparam(x)
    best, *_ = other.attack_single_run(x, y, x_init=start.clone())
    ours, _ = APGDL1(ball).climb(Model(logits), ball, steps, start, x, y, y, stop=False)
    losses = [torch.nn.functional.cross_entropy(logits(each), y, reduction="none") for each in (start, best, ours)]
    assert bool((losses[2] > losses[0]).all())
    assert torch.allclose(losses[1], losses[2], rtol=0.02)
    assert int(((best - ours).abs().flatten(1).amax(1) < 1e-5).sum()) >= equal


@pytest.mark.parametrize("make", [APGD, FAB, Square, AutoAttack])
def test_attacks_without_an_l1_form_say_so(make):
    with pytest.raises(ValueError, match="has no form for an l1 ball here: use PGD, or --autoattack apgd"):
        make(L1())


def test_an_evaluation_in_l1_is_written_and_read():
    evaluation = Evaluation(PGD(L1(12.0)), autoattack="apgd")
    assert evaluation.autoattack_names == ("apgd/apgd-ce", "apgd/apgd-t")
    assert replace(evaluation, autoattack="none").full.autoattack == "apgd"
    assert in_words(L1(12.0)).endswith("(l1)")
    with pytest.raises(ValueError, match="l1 ball"):
        replace(evaluation, autoattack="standard")
