"""FAB's projection onto a hyperplane inside [0, 1], against bisection and brute force."""

import pytest
import torch
from torch import Tensor

from unshaken.attacks.ball import L2, Ball, Linf
from unshaken.attacks.base import Model
from unshaken.attacks.fab import FAB, FABState, tangent
from unshaken.base.rng import Key

each_ball = pytest.mark.parametrize("ball", [Linf(1.0), L2(1.0)], ids=str)


def bisected(ball: Ball, x: Tensor, w: Tensor, gap: float) -> Tensor:
    """d_i = clip(λ·direction_i) for the λ at which ⟨w, d⟩ = −gap: of the Lagrangian, in float64."""
    way = -w.sign() if gap > 0 else w.sign()
    lr = way.abs() if isinstance(ball, Linf) else w.abs()

    def d(length: float) -> Tensor:
        return torch.minimum(torch.maximum(way * lr * length, -x), 1 - x)

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((w * d(middle)).sum().abs()) < abs(gap) else (low, middle)
    return d(high)


@each_ball
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.8, -0.02, -0.5])
def test_the_projection(ball, part):
    """gap: a part of the most that ⟨w, d⟩ can be. Half of the images have pixels of 0 and 1 alone, or nearly."""
    rng = Key("projection").on("cpu")
    x = torch.rand(20, 3, 5, 5, generator=rng, dtype=torch.float64)
    x[10:] = (x[10:] * 1.2 - 0.1).round(decimals=0).clamp(0, 1) * 0.98 + 0.01 * x[10:]
    w = torch.randn(20, 3, 5, 5, generator=rng, dtype=torch.float64) ** 3
    room = torch.where((w > 0) == (part < 0), 1 - x, x)
    gap = part * (w.abs() * room).sum((1, 2, 3))
    d = tangent(ball, x, w, gap, steps=20)
    short = (w * tangent(ball, x, w, gap)).sum((1, 2, 3)) / -gap
    assert ((short > 0.98) & (short < 1 + 1e-9)).all() or not part
    assert torch.allclose((w * d).sum((1, 2, 3)), -gap, rtol=1e-9, atol=1e-12)
    assert (x + d).min() >= -1e-12
    assert (x + d).max() <= 1 + 1e-12
    expected = torch.stack([bisected(ball, *row, float(g)) for *row, g in zip(x, w, gap, strict=True)])
    assert torch.allclose(d, expected, atol=1e-7)


@each_ball
def test_no_random_step_onto_the_plane_is_shorter(ball):
    """Every random feasible d that reaches the plane is longer."""
    rng = Key("ways").on("cpu")
    x, w = torch.rand(1, 1, 1, 3, generator=rng, dtype=torch.float64), torch.tensor([[[[1.0, -2.0, 0.5]]]]).double()
    gap = torch.tensor([0.4]).double()
    shortest = ball.distance(tangent(ball, x, w, gap), torch.zeros_like(x))
    ways = torch.rand(300000, 1, 1, 3, generator=rng, dtype=torch.float64) - x
    reach = ((w * ways).sum((1, 2, 3)) + gap).abs() < 0.002
    lengths = ball.distance(ways, torch.zeros_like(ways))[reach]
    assert len(lengths) > 100
    assert shortest - 0.002 <= lengths.min() <= shortest + 0.05


@each_ball
def test_an_unreachable_plane_gives_the_corner_and_a_zero_normal_gives_zero(ball):
    x = torch.tensor([0.25, 0.5]).view(1, 1, 1, 2).expand(3, -1, -1, -1)
    w = torch.tensor([[1.0, -1.0], [0.0, 0.0], [0.0, 1e-30]]).view(3, 1, 1, 2)
    d = tangent(ball, x, w, torch.tensor([5.0, 1.0, -1.0]))
    assert torch.allclose(d.view(3, 2), torch.tensor([[-0.25, 0.5], [0, 0], [0, 0.5]]))


@each_ball
def test_a_step_has_the_values_computed_by_hand(ball):
    """x = (½, ½), z = (0, 8(x₁ − x₂ − ¼)): along (1, −1) the boundary is ⅛ away in each pixel; η goes 5 % beyond."""
    x, asked = torch.full((1, 1, 1, 2), 0.5), []

    def logits(x: Tensor) -> Tensor:
        asked.append(x.detach())
        return torch.stack([torch.zeros(1), 8 * (x[:, 0, 0, 0] - x[:, 0, 0, 1] - 0.25)], 1)

    eps = 0.01 if isinstance(ball, Linf) else 0.015
    x_adv = FAB(type(ball)(eps), steps=2)(Model(logits), x, torch.zeros(1, dtype=torch.long), Key(0))
    assert torch.equal(x_adv, x)
    away = [float(point[0, 0, 0, 0]) - 0.5 for point in asked[1:]]  # the first chooses the targets
    first = 1.05 / 8  # from x itself, whatever the weights of the two ways there
    back = 0.9 * first
    a = min(((1 / 8 - back) / (1 / 8 - back + 1 / 8)), 0.1)
    second = (1 - a) * (back + 1.05 * (1 / 8 - back)) + a * first
    assert away == pytest.approx([0, first, back, second], abs=1e-6)
    assert all(float(point.sum()) == pytest.approx(1) for point in asked)


def hill(x: Tensor) -> Tensor:
    return torch.stack([torch.zeros(len(x)), 8 * (x[:, 0, 0, 0] - x[:, 0, 0, 1] - 0.25)], 1)


@each_ball
def test_the_way_from_x_weighs_a_tenth_at_most(ball):
    """From ¼ away, across the boundary that is ⅛ away: both ways are equally long, and a = ½ is cut to 0.1."""
    x, point = torch.tensor([[[[0.5, 0.5]]], [[[0.75, 0.25]]]]).split(1)
    now = FABState(torch.tensor([0]), x, torch.tensor([0]), torch.tensor([1]), point)
    reached = FAB(ball)._move(Model(hill), now)
    away = 0.9 * (0.25 - 1.05 / 8) + 0.1 * 1.05 / 8
    assert reached.flatten().tolist() == pytest.approx([0.5 + away, 0.5 - away])


@pytest.mark.parametrize("ball", [Linf(0.1252), L2(0.1770)], ids=str)
def test_what_oversteps_the_ball_is_tried_where_it_enters(ball):
    """The boundary is at 0.125 in l∞, √2 of that in l2: the first step ends 5 % behind it, outside the ball."""
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.zeros(1, dtype=torch.long)
    x_adv = FAB(ball, steps=1)(Model(hill), x, y, Key(0))
    assert hill(x_adv).argmax(1).tolist() == [1]
    assert float(ball.distance(x_adv, x)) == pytest.approx(ball.eps, rel=1e-5)
    nearer = type(ball)(ball.eps * 0.99)
    assert torch.equal(FAB(nearer)(Model(hill), x, y, Key(0)), x)
