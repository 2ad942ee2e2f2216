"""Square: its schedule, its bumps, and what a search by squares leaves alone."""

from math import sqrt

import pytest
import torch
from torch import Tensor

from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.base import Model
from unshaken.attacks.square import Square, SquareDraws, _bump, bump_of
from unshaken.base.rng import Key

each_ball = pytest.mark.parametrize("ball", [Linf(0.05), L2(0.5)], ids=str)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=Key("x").on("cpu"))


def test_the_schedule_of_the_paper():
    """p = 0.8 is halved after 10, 50, 200, 500, 1,000, 2,000, 4,000, 6,000 and 8,000 of 10,000 queries."""
    sides = Square(Linf(0.1), queries=10000).sides(32, 32)
    expected = [
        (0, 0.8), (10, 0.8), (11, 0.4), (50, 0.4), (51, 0.2), (200, 0.2), (201, 0.1), (500, 0.1), (501, 0.05),
        (1001, 0.025), (2001, 0.0125), (4000, 0.0125), (4001, 0.00625), (6001, 0.003125), (8001, 0.0015625),
    ]  # fmt: skip
    assert [sides[at] for at, _ in expected] == [max(round(sqrt(part) * 32), 1) for _, part in expected]
    assert Square(Linf(0.1), queries=5000).sides(32, 32) == sides[:5000]
    assert Square(Linf(0.1), queries=5000, schedule=5000).sides(32, 32) == sides[::2]
    assert list(dict.fromkeys(Square(L2(0.5)).sides(32, 32))) == [29, 21, 15, 11, 7, 5, 3]
    assert max(Square(L2(0.5)).sides(8, 8)) == 7
    assert max(Square(Linf(0.5)).sides(4, 32)) == 4


@pytest.mark.parametrize("side", [1, 3, 4, 7])
def test_an_l2_bump_is_equation_2_of_the_paper(side):
    """Eq. 2 of the paper in loops; each half of length √½."""

    def hill(height: int, width: int) -> Tensor:
        cells = torch.zeros(height, width, dtype=torch.float64)
        for r in range(height):
            for s in range(width):
                away = max(abs(r - height // 2), abs(s - width // 2))
                cells[r, s] = sum(1 / k**2 for k in range(away + 1, max(height, width) // 2 + 2))
        return cells / cells.norm() if height else cells

    expected = torch.cat([hill(side // 2, side), -hill(side - side // 2, side)])
    assert torch.allclose(bump_of(side).double(), expected / expected.norm(), atol=1e-6)


def test_squares_cover_every_position_inside_the_image():
    draws = SquareDraws.of([3] * 2000, images(1, 2, 5, 6), Key(0).on("cpu"))
    for windows in (draws.here, draws.there):
        assert {(rows.start, columns.start) for rows, columns in windows} == {
            (r, c) for r in range(3) for c in range(4)
        }
    assert draws.here != draws.there
    assert draws.sign.unique().tolist() == [-1, 1]
    assert 900 < sum(draws.turned) < 1100


@each_ball
def test_every_query_is_valid_and_in_the_ball_and_full(ball):
    x, asked = images(4, 3, 10, 10) * 0.6 + 0.2, []

    def logits(x: Tensor) -> Tensor:
        asked.append(x)
        value = (x - 0.5).sum((1, 2, 3))
        return torch.stack([value + 100, -value], 1)

    x_adv = Square(ball, queries=60)(Model(logits), x, torch.zeros(4, dtype=torch.long), Key(0))
    assert torch.equal(x_adv, x)
    assert len(asked) == 61
    for tried in asked:
        assert tried.min() >= 0
        assert tried.max() <= 1
        assert torch.allclose(ball.distance(tried, x), torch.tensor(ball.eps), atol=1e-5)
    assert len({tuple(tried.flatten().tolist()) for tried in asked}) > 40


@each_ball
def test_a_query_is_accepted_only_if_it_lowers_the_margin(ball):
    x, margins = images(1, 1, 8, 8), []

    def logits(x: Tensor) -> Tensor:
        value = (5 * x).sin().sum((1, 2, 3)) + 50
        margins.append(float(value))
        return torch.stack([value, torch.zeros_like(value)], 1)

    model, y = Model(logits), torch.zeros(1, dtype=torch.long)
    Square(ball, queries=300)(model, x, y, Key(0))
    assert min(margins[150:]) < min(margins[:20])


@pytest.mark.parametrize("query", range(8))
def test_an_l2_step_is_algorithm_3_of_the_paper(query):
    """Algorithm 3 of arXiv:1912.00049 channel by channel in float64, squares that overlap among them."""
    eps, x = 0.7, (images(1, 3, 8, 8) * 0.6 + 0.2).double()
    delta = torch.randn(3, 8, 8, generator=Key("delta").on("cpu"), dtype=torch.float64)
    delta = 0.8 * eps * delta / delta.norm()
    draws = SquareDraws.of([3, 3, 5, 5, 3, 3, 5, 5], x, Key(5).on("cpu"))
    here, there = (slice(None), *draws.here[query]), (slice(None), *draws.there[query])
    both = torch.zeros(3, 8, 8, dtype=torch.bool)
    both[here] = both[there] = True
    changed = delta.clone()
    changed[there] = 0
    eta = bump_of(draws.side[query]).double()
    for c in range(3):
        bump = float(draws.sign[query, c]) * (eta.T if draws.turned[query] else eta)
        bump = bump + delta[c][draws.here[query]] / delta[c][draws.here[query]].norm()
        budget = float((delta[c][both[c]] ** 2).sum() + (eps**2 - (delta**2).sum()) / 3) ** 0.5
        changed[c][draws.here[query]] = budget * bump / bump.norm()
    assert float(changed.norm()) == pytest.approx(eps)  # before any pixel meets 0 or 1
    found = _bump(x, x + delta, eps, draws, query)
    assert torch.allclose(found[0], (x[0] + changed).clamp(0, 1), atol=1e-6)
    assert len(set(draws.turned)) == 2
