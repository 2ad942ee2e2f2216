"""Balls: their samples, steepest directions, projections and distances."""

from math import pi

import pytest
import torch
from torch import Tensor

from unshaken.attacks.ball import L1, L2, Ball, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.shared_batch import Rows, sharing

BALLS = [Linf(8 / 255), Linf(0.3), L2(0.5), L2(3.0)]
each_ball = pytest.mark.parametrize("ball", BALLS, ids=str)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=Key(seed).on("cpu"))


def sampled(ball: Ball, x: Tensor, seed: int = 0) -> Tensor:
    return ball.sample(x, Key(seed).on("cpu"))


def length(ball: Ball, delta: Tensor) -> float:
    """The norm of one image, a pixel at a time."""
    pixels = [abs(value) for value in delta.flatten().tolist()]
    return max(pixels) if isinstance(ball, Linf) else sum(value**2 for value in pixels) ** 0.5


@each_ball
def test_distance(ball):
    x, x_adv = images(2, 3, 3, 4, 5), images(2, 3, 3, 4, 5, seed=1)
    distance = ball.distance(x_adv, x)
    assert distance.shape == (2, 3)
    for v in range(2):
        for n in range(3):
            assert float(distance[v, n]) == pytest.approx(length(ball, (x_adv - x)[v, n]), rel=1e-5)


@each_ball
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 4, 3, 5, 6)])
def test_samples_are_valid_images_in_the_ball(ball, shape):
    x = images(*shape).round(decimals=1).clamp(0, 1)  # some pixels at the very ends
    x_adv = sampled(ball, x)
    assert x_adv.shape == x.shape
    assert ball.distance(x_adv, x).max() <= ball.eps * (1 + 1e-5)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert ball.distance(x_adv, x).min() > 0


@each_ball
def test_samples_depend_on_the_generator_alone(ball):
    x = images(4, 3, 5, 6)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(sampled(ball, x), sampled(ball, x))
    assert not torch.equal(sampled(ball, x), sampled(ball, x, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_linf_samples_are_uniform():
    noise = sampled(Linf(0.1), torch.full((100, 1, 40, 40), 0.5)) - 0.5  # 160,000 draws: the bounds are 10 σ wide
    assert float(noise.abs().mean()) == pytest.approx(0.05, abs=0.001)
    assert float(noise.mean()) == pytest.approx(0, abs=0.0015)
    assert float((noise.abs() < 0.025).float().mean()) == pytest.approx(0.25, abs=0.011)
    assert noise.abs().max() > 0.0999


def test_l2_samples_fill_the_ball():
    """In d dimensions (r/ε)ᵈ is uniform in [0, 1], directions are alike: a coordinate's variance is ε²/(d+2)."""
    noise = sampled(L2(0.4), torch.full((40_000, 3, 1, 1), 0.5)) - 0.5
    volume = (noise.flatten(1).norm(dim=1) / 0.4) ** 3
    assert float(volume.mean()) == pytest.approx(1 / 2, abs=0.015)  # 10 σ
    assert float(volume.square().mean()) == pytest.approx(1 / 3, abs=0.015)
    assert noise.mean(0).flatten().tolist() == pytest.approx([0, 0, 0], abs=0.01)
    assert noise.square().mean(0).flatten().tolist() == pytest.approx([0.4**2 / 5] * 3, rel=0.05)


def test_l2_samples_fill_a_disc():
    noise = (sampled(L2(0.4), torch.full((40_000, 1, 1, 2), 0.5)) - 0.5).flatten(1)
    quarter = (noise.abs() < 0.2).all(1).float().mean()  # a square of side ε in a disc of radius ε
    assert float(quarter) == pytest.approx(1 / pi, abs=0.025)
    x, y = noise.abs().T
    assert float((y < (2**0.5 - 1) * x).float().mean()) == pytest.approx(1 / 4, abs=0.022)  # within π/8 of one axis


@each_ball
def test_a_projection_is_a_valid_image_in_the_ball_and_stays_there(ball):
    x = images(20, 3, 4, 5)
    far = x + 2 * torch.randn(x.shape, generator=Key(1).on("cpu"))
    near = ball.project(far, x)
    assert ball.distance(near, x).max() <= ball.eps * (1 + 1e-5)
    assert near.min() >= 0
    assert near.max() <= 1
    assert torch.allclose(ball.project(near, x), near, atol=1e-6)


@each_ball
def test_what_is_inside_is_not_moved(ball):
    x = torch.full((4, 3, 4, 5), 0.5)
    inside = x + 0.9 * (sampled(ball, x) - x)
    assert torch.allclose(ball.project(inside, x), inside, atol=1e-7)


def test_linf_projects_pixel_by_pixel():
    x, x_adv = images(2, 1, 3, 3), images(2, 1, 3, 3, seed=1) * 3 - 1
    slow = [max(0, min(1, max(a - 0.1, min(a + 0.1, b)))) for a, b in zip(x.ravel(), x_adv.ravel(), strict=True)]
    assert torch.allclose(Linf(0.1).project(x_adv, x).ravel(), torch.tensor(slow))


def test_l2_projects_along_the_ray_of_each_image():
    x = torch.full((3, 1, 1, 2), 0.5)
    x_adv = x + torch.tensor([[3.0, 4.0], [0.06, -0.08], [0.0, 0.0]]).view(3, 1, 1, 2)
    expected = [[0.62, 0.66], [0.56, 0.42], [0.5, 0.5]]
    assert torch.allclose(L2(0.2).project(x_adv, x).view(3, 2), torch.tensor(expected))


def test_l2_cuts_what_leaves_the_pixels_after_the_ray():
    x = torch.tensor([0.95, 0.5]).view(1, 1, 1, 2)
    x_adv = x + torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    assert L2(0.2).project(x_adv, x).flatten().tolist() == pytest.approx([1.0, 0.66])


@each_ball
def test_ascent_is_the_steepest_of_its_length(ball):
    """Hölder: over steps of length ρ the largest ⟨step, ∇⟩ is ρ times the dual norm, l1 for l∞ and l2 for l2."""
    grad = torch.randn(2, 3, 3, 4, 5, generator=Key(0).on("cpu")) * 10.0 ** torch.arange(-3, 3).view(2, 3, 1, 1, 1)
    x = torch.zeros(grad.shape)
    move = ball.ascend(x, grad, 0.01) - x
    assert torch.allclose(ball.distance(move, x), torch.full((2, 3), 0.01))
    dual = grad.flatten(2).norm(p=1 if isinstance(ball, Linf) else 2, dim=2)
    assert torch.allclose((move * grad).flatten(2).sum(2), 0.01 * dual)


@each_ball
def test_a_zero_gradient_moves_nothing(ball):
    x, grad = images(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    grad[1] = 0
    assert torch.equal(ball.ascend(x, grad, 0.1)[1], x[1])
    assert ball.ascend(x, grad, 0.1).isfinite().all()


@pytest.mark.parametrize("eps", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [Linf, L2])
def test_eps_is_positive(kind, eps):
    with pytest.raises(ValueError, match="eps is a number > 0, not"):
        kind(eps)


def test_an_l_inf_eps_of_8_is_refused_with_a_hint_to_8_255():
    with pytest.raises(ValueError, match="did you mean 8/255?"):
        Linf(8)
    assert L2(8).eps == 8


@pytest.mark.parametrize("size", [1e-44, 1e-24, 1e24])
def test_l2_ascends_along_gradients_of_any_size(size):
    """Squares of what a confident network's gradient is made of are 0 in float32; the step is whole all the same."""
    x = torch.full((1, 1, 2, 2), 0.5)
    moved = L2(0.5).ascend(x, torch.full_like(x, size), 0.1)
    assert torch.allclose(moved - x, torch.full_like(x, 0.05))


@pytest.mark.parametrize(
    "attack", [*(PGD(ball, 0) for ball in (Linf(0.3), L2(3.0), L1(5.0))), PGD(init="gaussian", steps=0)]
)
def test_the_starts_of_three_processes_are_those_of_one(attack):
    """Each draws for the whole batch, and keeps its own rows: (V N C H W) and (N C H W), bit for bit."""
    x = torch.rand(2, 7, 3, 4, 4, generator=Key(5).on("cpu"))
    for views in (x, x[0]):
        whole, parts = attack.maximise(None, views, Key(1).on("cpu")), []
        for rank in range(3):
            rows = Rows(rank, (3, 2, 2))
            with sharing(rows):
                parts.append(attack.maximise(None, rows.own(views, -4), Key(1).on("cpu")))
        assert torch.equal(torch.cat(parts, -4), whole)
