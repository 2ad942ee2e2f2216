"""ACL and DynACL: the paper's objective, the released code's attack and order of forward passes."""

import copy
from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock, Constant, StepSchedule
from unshaken.methods.acl import ACL
from unshaken.nets.network import Network, evaluating


def contrast(z: Tensor, tau: float) -> float:
    """l_CL of both views, the mean over 2N anchors: one term at a time, in float64."""
    rows = normalize(z.detach().double(), dim=-1).flatten(0, 1)
    count, total = z.shape[1], 0.0
    for a in range(2 * count):
        similar = [exp(float(rows[a] @ rows[b]) / tau) for b in range(2 * count)]
        total -= log(similar[(a + count) % (2 * count)] / (sum(similar) - similar[a]))
    return total / (2 * count)


@pytest.mark.parametrize("omega", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_loss_is_the_weighted_sum_of_both_streams(omega, tau, net, batch, clock, calls):
    terms = ACL(tau=tau, omega=Constant(omega)).loss(net, batch, clock, Key(0))
    adv, clean = (contrast(call.z, tau) for call in calls[-2:])
    assert terms["adv"].item() == pytest.approx(adv, rel=1e-5)
    assert terms["clean"].item() == pytest.approx(clean, rel=1e-5)
    assert terms["loss"].item() == pytest.approx((1 + omega) * adv + (1 - omega) * clean, rel=1e-5)


@pytest.mark.parametrize(("epoch", "omega"), [(0, 0.0), (49, 0.0), (50, 2 / 3 * 0.05), (999, 2 / 3 * 0.95)])
def test_dynacl_s_weight_follows_the_clock(epoch, omega, net, batch):
    method = ACL(omega=StepSchedule(0, 2 / 3, every=50))
    terms = method.loss(net, batch, Clock(0, epoch, epoch + 1.0, 1000), Key(0))
    expected = (1 + omega) * terms["adv"] + (1 - omega) * terms["clean"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_attack_is_in_eval_mode_and_the_update_in_train_mode_adv_first(net, batch, clock, calls):
    ACL(PGD(steps=3)).loss(net, batch, clock, Key(0))
    assert [(call.route, call.modes) for call in calls] == [("adv", {False})] * 3 + [("adv", {True}), ("clean", {True})]
    assert calls[-1].x is batch.views
    assert not calls[-2].x.requires_grad


def test_each_route_s_statistics_are_updated_once(net, batch, clock):
    adv, clean = (net.encoder.backbone.bn1.routes[route] for route in ("adv", "clean"))
    before = int(adv.num_batches_tracked), int(clean.num_batches_tracked)
    ACL().loss(net, batch, clock, Key(0))
    assert (int(adv.num_batches_tracked), int(clean.num_batches_tracked)) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("ball", [Linf(8 / 255), Linf(0.1), L2(0.5)], ids=str)
def test_the_attack_raises_the_contrastive_loss_within_the_ball(ball, net, batch):
    x_adv = ACL(PGD(ball)).adversarial(net, batch.views, Key(0))
    start = ACL(PGD(ball, steps=0)).adversarial(net, batch.views, Key(0))
    assert x_adv.shape == batch.views.shape
    assert ball.distance(x_adv, batch.views).max() <= ball.eps * (1 + 1e-5)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    net.eval()
    loss, at_start, at_views = (contrast(net(x, "adv"), 0.5) for x in (x_adv, start, batch.views))
    assert loss > at_start
    assert loss > at_views


def slope(net: Network, x: Tensor, tau: float) -> Tensor:
    """∂l_CL/∂x, over both views of the whole batch at once."""
    x = x.detach().requires_grad_()
    z = normalize(net(x, "adv"), dim=-1).flatten(0, 1)
    similar, rows = (z @ z.T / tau).exp(), torch.arange(12)
    loss = -(similar[rows, (rows + 6) % 12] / (similar.sum(1) - similar.diag())).log().mean()
    return torch.autograd.grad(loss, x)[0]


def test_the_attack_s_steps(net, batch):
    """5 steps of 2/255 along the sign, from a uniform start (spelled out here)."""
    x, eps, twin = batch.views, 8 / 255, copy.deepcopy(net).eval()
    x_adv = Linf(eps).sample(x, (Key(3) / "attack").on("cpu"))
    for _ in range(5):
        x_adv = (x_adv + 2 / 255 * slope(twin, x_adv, 0.5).sign()).clamp(x - eps, x + eps).clamp(0, 1)
    ours = ACL().adversarial(net, x, Key(3))
    assert ((ours - x_adv).abs() < 1e-6).float().mean() > 0.95  # a gradient of almost 0 may have either sign


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_the_attack_s_direction(tau, net, batch):
    """One short step in l2 shows the gradient's direction, image by image."""
    x, twin, key = batch.views, copy.deepcopy(net).eval(), Key(3)
    start = ACL(PGD(L2(0.5), steps=0)).adversarial(net, x, key)
    ours = ACL(PGD(L2(0.5), steps=1, rel_step_size=0.2), tau).adversarial(net, x, key)
    grad = slope(twin, start, tau)
    step = 0.1 * grad / grad.flatten(2).norm(dim=2)[..., None, None, None]
    assert torch.allclose(ours, L2(0.5).project(start + step, x), atol=1e-5)


def test_the_attack_depends_on_the_key(net, batch):
    one, same, other = (ACL().adversarial(net, batch.views, Key(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_attack_leaves_gradients_modes_and_statistics(net, batch):
    net.head.eval()
    modes, state = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    ACL().adversarial(net, batch.views, Key(0))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_the_defaults_are_the_paper_s():
    assert ACL() == ACL(
        PGD(Linf(8 / 255), steps=5, rel_step_size=1 / 4, init="uniform", restarts=1), 0.5, Constant(0.0)
    )


def test_embeddings_use_train_mode(net, batch):
    twin = copy.deepcopy(net)
    z_adv, z = ACL().embed(net, batch, Key(0))
    x_adv = ACL().adversarial(twin, batch.views, Key(0))
    assert torch.equal(z_adv, twin(x_adv, "adv"))
    assert torch.equal(z, twin(batch.views, "clean"))
    with evaluating(twin):
        assert not torch.allclose(z, twin(batch.views, "clean"), atol=1e-3)
