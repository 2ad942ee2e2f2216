"""APGD: every step of it against the paper's algorithm, written out in float64 for one image at a time."""

from math import ceil

import pytest
import torch
from torch import Tensor

from unshaken.attacks.apgd import APGD, checkpoints_of
from unshaken.attacks.ball import L2, Ball, Linf
from unshaken.attacks.base import Model
from unshaken.base.rng import Key
from variants import variants

W = torch.randn(5, 48, generator=Key("w").on("cpu"), dtype=torch.float64)


def logits(x: Tensor) -> Tensor:
    """Curved, with many hills; class 0 always wins, so that no image falls and every step is seen."""
    z = (6 * (x - 0.4).flatten(1) @ W.T / 7).sin()
    return z + 10 * torch.eye(5, dtype=z.dtype)[0]


def objective(attack: APGD, z: Tensor, goal: int) -> Tensor:
    """Of the label 0."""
    ranked = z.sort(descending=True).values
    if attack.loss == "ce":
        return z.exp().sum().log() - z[0] if not attack.targets else z[goal] - z.exp().sum().log()
    if attack.targets:
        return -(z[0] - z[goal]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)
    return -(z[0] - z[1:].max()) / (ranked[0] - ranked[2])


def onto(ball: Ball, point: Tensor, x: Tensor) -> Tensor:
    if isinstance(ball, Linf):
        return torch.minimum(torch.maximum(point, x - ball.eps), x + ball.eps).clamp(0, 1)
    delta = point - x
    return (x + delta * min(1.0, ball.eps / float(delta.norm()))).clamp(0, 1)


def literal(attack: APGD, x: Tensor, start: Tensor, goal: int) -> list[Tensor]:
    """Algorithm 1 of arXiv:2003.01690, its checkpoints as in section 3.1; all points at which f is asked for."""
    ball, n = attack.ball, attack.steps
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = [ceil(round(part * n, 9)) for part in p]

    def f(point: Tensor) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_()
        value = objective(attack, logits(point[None])[0], goal)
        (grad,) = torch.autograd.grad(value, point)
        asked.append(point.detach())
        return float(value.detach()), grad.sign() if isinstance(ball, Linf) else grad / grad.norm()

    asked: list[Tensor] = []
    points, eta = [start], 2 * ball.eps
    values = [f(start)]
    best, best_point = values[0], start
    eta_at, best_at = {0: eta}, {0: best[0]}
    for k in range(n):
        now = points[-1]
        z = onto(ball, now + eta * values[-1][1], x)
        if k:
            z = onto(ball, now + 0.75 * (z - now) + 0.25 * (now - points[-2]), x)
        points.append(z)
        values.append(f(z))
        if values[-1][0] > best[0]:
            best, best_point = values[-1], z
        if k + 1 in w:
            since, until = w[w.index(k + 1) - 1], k + 1
            rises = sum(values[i + 1][0] > values[i][0] for i in range(since, until))
            still = eta_at[since] == eta and best_at[since] == best[0]
            eta_at[until], best_at[until] = eta, best[0]
            if rises < 0.75 * (until - since) or still:
                halvings.append("rises" if rises < 0.75 * (until - since) else "still")
                eta /= 2
                points[-1], values[-1] = best_point, best
    return asked


halvings: list[str] = []


@pytest.mark.parametrize("ball", [Linf(0.3), L2(0.8)], ids=str)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("targets", [0, 2])
@pytest.mark.parametrize("steps", variants([1, 7, 50], [1, 50]))
def test_every_step_is_the_paper_s(ball, loss, targets, steps):
    count = 2 if steps > 7 and (loss, targets) != ("dlr", 2) else 6
    x = torch.rand(count, 3, 4, 4, generator=Key("x").on("cpu"), dtype=torch.float64)
    halvings.clear()
    y, asked, attack = torch.zeros(count, dtype=torch.long), [], APGD(ball, loss, targets, steps)

    def recorded(x: Tensor) -> Tensor:
        asked.append(x.detach())
        return logits(x)

    assert torch.equal(attack(Model(recorded, logits), x, y, Key(3)), x)
    goals = logits(x)[:, 1:].argsort(descending=True)[:, :2] + 1 if targets else y[:, None]
    assert len(asked) == (steps + 1) * goals.shape[1]
    for t in range(goals.shape[1]):
        start = ball.sample(x, (Key(3) / t / 0).on("cpu"))
        ours = torch.stack(asked[t * (steps + 1) : (t + 1) * (steps + 1)], 1)
        for i in range(count):
            expected = torch.stack(literal(attack, x[i], start[i], int(goals[i, t])))
            assert torch.allclose(ours[i], expected, atol=1e-7), (i, t)
    if (loss, targets, steps) == ("dlr", 2, 50):
        assert set(halvings) == {"rises", "still"}  # both conditions were seen to halve the steps


def test_the_checkpoints_of_a_hundred_steps():
    assert sorted(checkpoints_of(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints_of(10)) == [3, 5, 6, 7, 8, 9, 10]
    assert sorted(checkpoints_of(1)) == [1]


def test_gradients_of_a_random_network_are_averaged():
    """Noise around a slope: with one draw its sign is chance, with many it is the slope's."""
    rng, x = Key("noise").on("cpu"), torch.full((40, 1, 4, 4), 0.5)

    def noisy(x: Tensor) -> Tensor:
        slope = 1 + 3 * torch.randn(x.shape, generator=rng)
        value = (slope * x).sum((1, 2, 3))
        return torch.stack([value * 0 + 100, value - value.detach()], 1)

    def climbed(draws: int) -> float:
        asked = []
        logits = lambda x: asked.append(x.detach()) or noisy(x)  # noqa: E731
        APGD(Linf(0.1), steps=2, draws=draws)(Model(logits), x, torch.zeros(40, dtype=torch.long), Key(0))
        assert len(asked) == 3 * draws
        return float((asked[draws] > 0.5).float().mean())

    assert climbed(1) < 0.75
    assert climbed(30) > 0.9


def test_fewer_classes_than_dlr_needs():
    x = torch.full((3, 1, 2, 2), 0.5)
    for classes in (2, 3):
        w = torch.randn(classes, 4, generator=Key(classes).on("cpu")) * 10
        y = ((x - 0.49).flatten(1) @ w.T).argmax(1)
        for attack in (APGD(Linf(0.3), "dlr"), APGD(Linf(0.3), "dlr", targets=9)):
            x_adv = attack(Model(lambda x, w=w: (x - 0.49).flatten(1) @ w.T), x, y, Key(0))
            assert (x_adv != x).flatten(1).any(1).all()


def test_no_gradient_is_taken_where_no_step_follows():
    wanted = []
    x, y = torch.rand(2, 3, 4, 4, generator=Key("x").on("cpu"), dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    APGD(Linf(0.3), steps=3)(Model(lambda x: wanted.append(x.requires_grad) or logits(x)), x, y, Key(0))
    assert wanted == [True, True, True, False]
