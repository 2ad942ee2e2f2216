"""PGD: the exact worst case of a linear model, and what an attack leaves alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD, embedding_attack, input_gradient
from unshaken.base.rng import Key
from unshaken.nets.network import evaluating

SHAPE = (5, 3, 4, 4)
W = torch.randn(SHAPE[1:], generator=Key("w").on("cpu")) + 0.01
BALLS = [Linf(8 / 255), L2(0.5)]
each_ball = pytest.mark.parametrize("ball", BALLS, ids=str)
each_start = pytest.mark.parametrize("start", ["uniform", "gaussian"])


def key(seed: int = 0) -> torch.Generator:
    return Key(seed).on("cpu")


def images(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=Key("x").on("cpu"))


def linear(x: Tensor) -> Tensor:
    """⟨w, x⟩, one value an image."""
    return (W * x).sum((-3, -2, -1))


def curved(x: Tensor) -> Tensor:
    return (3 * W * x).sin().sum((-3, -2, -1))


def dual(eps: float, kind: type) -> Tensor:
    """The step of length eps that raises ⟨w, x⟩ most."""
    return eps * W.sign() if kind is Linf else eps * W / W.norm()


@each_ball
@each_start
@pytest.mark.parametrize("loss", [linear, lambda x: linear(x).mean()], ids=["vector", "scalar"])
def test_a_linear_loss_is_raised_all_the_way(ball, start, loss):
    x = images(*SHAPE, low=0.3, high=0.7)  # no pixel comes near 0 or 1
    x_adv = PGD(ball, steps=30, rel_step_size=1.0, init=start).maximise(loss, x, key())
    assert torch.allclose(x_adv, x + dual(ball.eps, type(ball)), atol=1e-6)


def test_a_linear_loss_is_raised_all_the_way_between_valid_pixels():
    x = images(*SHAPE).mul(10).round() / 10
    x_adv = PGD(Linf(0.3), steps=10).maximise(linear, x, key())
    assert torch.allclose(x_adv, (x + 0.3 * W.sign()).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.1)], ids=str)
def test_the_robust_accuracy_of_a_linear_classifier_is_exact(ball):
    """x = ½ + t·u with ⟨w, u⟩ = ‖w‖* has margin t‖w‖*, and eps takes away eps‖w‖*: it holds if and only if t > eps."""
    t = torch.tensor([-0.2, -0.05, 0.0, 0.05, 0.09, 0.095, 0.105, 0.11, 0.2])
    x = 0.5 + t.view(-1, 1, 1, 1) * dual(1.0, type(ball))
    label = torch.ones(len(t), dtype=torch.long)

    def logits(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), linear(x) - 0.5 * W.sum()], dim=1)

    x_adv = PGD(ball, steps=30).maximise(lambda x: cross_entropy(logits(x), label, reduction="none"), x, key())
    assert (logits(x_adv).argmax(1) == label).tolist() == (t > 0.1).tolist()


def test_the_steps_of_the_published_code():
    """ACL and AIR move δ: to [−ε, ε], then to valid pixels (spelled out here, in float64, from the same start)."""
    eps, rho = 8 / 255, 2 / 255
    x = images(*SHAPE).double()
    delta = Linf(eps).sample(x, key()) - x
    for _ in range(5):
        delta.requires_grad_()
        curved(x + delta).mean().backward()
        delta = (delta + rho * delta.grad.sign()).detach().clamp(-eps, eps)
        delta = (x + delta).clamp(0, 1) - x
    assert torch.allclose(PGD(Linf(eps)).maximise(curved, x, key()), x + delta, atol=1e-12)


@each_ball
@each_start
def test_every_point_visited_is_valid_and_in_the_ball(ball, start):
    x, visited = images(*SHAPE).mul(4).round() / 4, []

    def loss(x_adv: Tensor) -> Tensor:
        visited.append(x_adv.detach())
        return curved(x_adv)

    visited.append(PGD(ball, steps=7, init=start).maximise(loss, x, key()))
    assert len(visited) == 8
    for x_adv in visited:
        assert ball.distance(x_adv, x).max() <= ball.eps * (1 + 1e-5)
        assert 0 <= x_adv.min() <= x_adv.max() <= 1


@each_ball
def test_no_steps_is_the_start(ball):
    x = images(*SHAPE)
    assert torch.equal(PGD(ball, steps=0).maximise(curved, x, key()), ball.sample(x, key()))


def test_a_near_start_is_a_thousandth_away():
    x = images(50, 3, 20, 20, low=0.3, high=0.7)
    noise = PGD(Linf(8 / 255), steps=0, init="gaussian").maximise(curved, x, key()) - x
    assert float(noise.std()) == pytest.approx(0.001, rel=0.03)  # 60,000 draws: 10 σ
    assert float(noise.mean()) == pytest.approx(0, abs=5e-5)


@each_ball
@each_start
def test_an_attack_depends_on_its_generator_alone(ball, start):
    x, attack = images(*SHAPE), PGD(ball, init=start)
    before = torch.get_rng_state()
    assert torch.equal(attack.maximise(curved, x, key(1)), attack.maximise(curved, x, key(1)))
    assert not torch.equal(attack.maximise(curved, x, key(1)), attack.maximise(curved, x, key(2)))
    assert torch.equal(torch.get_rng_state(), before)


def starts(ball: Linf | L2, x: Tensor, count: int) -> list[Tensor]:
    rng = key()
    return [ball.sample(x, rng) for _ in range(count)]


@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (2, 5, 3, 4, 4)])
def test_restarts_keep_the_best_of_each_image(shape):
    x = images(*shape)
    x_adv = PGD(Linf(0.1), steps=0, restarts=4).maximise(curved, x, key())
    tries = torch.stack(starts(Linf(0.1), x, 4))
    assert torch.equal(curved(x_adv), curved(tries).amax(0))
    winners = curved(tries).argmax(0)
    assert len(winners.unique()) > 1
    assert torch.equal(x_adv, torch.take_along_dim(tries, winners.view(1, *winners.shape, 1, 1, 1), 0)[0])


def test_restarts_keep_the_best_whole_of_a_scalar_loss():
    x = images(*SHAPE)
    x_adv = PGD(Linf(0.1), steps=0, restarts=4).maximise(lambda x: curved(x).sum(), x, key())
    assert torch.equal(x_adv, max(starts(Linf(0.1), x, 4), key=lambda x: float(curved(x).sum())))


def test_a_restart_never_lowers_the_loss():
    x, one = images(*SHAPE), PGD(Linf(0.1), steps=3)
    once, often = (attack.maximise(curved, x, key()) for attack in (one, replace(one, restarts=3)))
    assert (curved(often) >= curved(once)).all()
    assert (curved(often) > curved(once)).any()


def test_comparing_restarts_records_no_gradient():
    recorded = []
    PGD(steps=1, restarts=2).maximise(
        lambda x: (recorded.append(torch.is_grad_enabled()), curved(x))[1], images(*SHAPE), key()
    )
    assert recorded == [True, True, False, False]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def test_parameters_are_left_alone():
    net = network()
    net[0].weight.requires_grad_(False)
    net[4].weight.grad = torch.ones_like(net[4].weight)
    learns = [p.requires_grad for p in net.parameters()]
    weights = [p.clone() for p in net.parameters()]
    for p in net.parameters():
        if p.requires_grad:
            p.register_hook(lambda _: pytest.fail("a weight's gradient was computed"))
    x = images(*SHAPE)
    x_adv = PGD().maximise(net, x, key())
    assert [p.requires_grad for p in net.parameters()] == learns
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), weights, strict=True))
    assert [p.grad is None for p in net.parameters()] == [p is not net[4].weight for p in net.parameters()]
    assert torch.equal(net[4].weight.grad, torch.ones_like(net[4].weight))
    assert not x.requires_grad
    assert not x_adv.requires_grad


def test_an_attack_under_evaluating_leaves_modes_and_statistics():
    net = network().train()
    net[0].eval()
    modes, buffers = [m.training for m in net.modules()], [b.clone() for b in net.buffers()]
    with evaluating(net):
        PGD().maximise(net, images(*SHAPE), key())
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), buffers, strict=True))


def test_an_attack_in_train_mode_is_the_caller_s_choice():
    net = network().train()
    PGD(steps=3).maximise(net, images(*SHAPE), key())
    assert int(net[1].num_batches_tracked) == 3
    assert net.training


def test_modes_come_back_when_the_loss_raises():
    net = network().train()
    net[1].eval()
    modes = [m.training for m in net.modules()]

    def loss(x: Tensor) -> Tensor:
        net(x)
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"), evaluating(net):
        PGD().maximise(loss, images(*SHAPE), key())
    assert [m.training for m in net.modules()] == modes


def test_an_attack_works_where_gradients_are_off():
    x = images(*SHAPE)
    expected = PGD().maximise(curved, x, key())
    with torch.no_grad():
        assert torch.equal(PGD().maximise(curved, x, key()), expected)
        assert not torch.is_grad_enabled()


def test_the_gradient_of_the_input():
    x = images(*SHAPE)
    assert torch.allclose(input_gradient(curved, x), 3 * W * (3 * W * x).cos())
    assert torch.allclose(input_gradient(lambda x: curved(x).mean(), x), 3 * W * (3 * W * x).cos() / 5)


@pytest.mark.parametrize(
    "wrong", [{"steps": -1}, {"restarts": 0}, {"rel_step_size": 0.0}, {"rel_step_size": float("nan")}], ids=str
)
def test_fields_that_make_no_attack(wrong):
    with pytest.raises(ValueError, match="is a (whole )?number [≥>] [01]"):
        PGD(**wrong)


def test_restarts_need_a_loss_a_batch_or_an_image():
    x = torch.full((2, 3, 1, 2, 2), 0.5)
    with pytest.raises(ValueError, match="a loss of one value, or of one for each image"):
        PGD(Linf(0.1), steps=1, restarts=2).maximise(lambda x: x.sum((0, 2, 3, 4)), x, torch.Generator())


def test_the_result_is_a_constant():
    x = torch.full((1, 1, 2, 2), 0.5, requires_grad=True)
    assert not PGD(Linf(0.1), steps=1).maximise(lambda x: x.sum(), x, torch.Generator()).requires_grad


@each_ball
def test_a_representation_is_moved_as_far_as_can_be(ball):
    """h(x) = ⟨w, x⟩·(1, −2) and d the Euclidean distance: eps times the dual norm of w, times √5, either way."""

    def embed(x: Tensor) -> Tensor:
        return linear(x)[:, None] * torch.tensor([1.0, -2.0])

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).norm(dim=-1)

    x = images(*SHAPE, low=0.3, high=0.7)
    x_adv = embedding_attack(PGD(ball, steps=30), embed, distance, x, embed(x), key())
    most = 5**0.5 * float((W * dual(ball.eps, type(ball))).sum())
    assert torch.allclose(distance(embed(x_adv), embed(x)), torch.full((5,), most), rtol=1e-3)
