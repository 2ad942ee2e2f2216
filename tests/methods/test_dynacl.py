"""DynACL: which view goes through which network, what moves, and the loss."""

import copy
from math import exp, log

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant, StepSchedule
from unshaken.methods.acl import ACL
from unshaken.methods.base import Step
from unshaken.methods.dynacl import DynACL
from unshaken.nets.network import Network


@pytest.fixture
def pair(net) -> Network:
    """A network and a teacher that differs from it."""
    net.teacher = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.teacher.parameters():
            p.mul_(1.1)
    return net


def contrast(z: Tensor, tau: float) -> float:
    """l_CL of both views, the mean over 2N anchors: one term at a time, in float64."""
    rows = normalize(z.detach().double(), dim=-1).flatten(0, 1)
    count, total = z.shape[1], 0.0
    for a in range(2 * count):
        similar = [exp(float(rows[a] @ rows[b]) / tau) for b in range(2 * count)]
        total -= log(similar[(a + count) % (2 * count)] / (sum(similar) - similar[a]))
    return total / (2 * count)


@pytest.mark.parametrize("omega", [0.0, 0.4])
def test_half_the_sum_of_views_through_two_networks(omega, pair, batch, clock):
    """With momentum 1 the teacher stays; each network sees its own view, in train mode."""
    method = DynACL(ACL(PGD(steps=2), omega=Constant(omega)), momentum=1.0)
    twin = copy.deepcopy(pair)
    terms = Step(method, pair).train()(batch, clock, Key(0))
    x_adv = method.acl.adversarial(_both(twin), batch.views, Key(0))
    twin.train()
    adv, clean = (
        contrast(torch.stack([twin(x[0], route), twin.teacher(x[1], route)]), 0.5)
        for x, route in ((x_adv, "adv"), (batch.views, "clean"))
    )
    assert terms["adv"].item() == pytest.approx(adv, rel=1e-4)
    assert terms["clean"].item() == pytest.approx(clean, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(((1 + omega) * adv + (1 - omega) * clean) / 2, rel=1e-4)


class _both(nn.Module):
    """Written out once more: the first view through h, the second through its teacher."""

    def __init__(self, h: Network) -> None:
        super().__init__()
        self.h = h

    def forward(self, x: Tensor, route: str) -> Tensor:
        first, second = x.unbind(0)
        return torch.stack((self.h(first, route), self.h.teacher(second, route)), 0)


def test_the_teacher_follows_by_its_momentum_before_the_step(pair, batch, clock):
    """ξ ← 0.9 ξ + 0.1 θ, parameters alone; its statistics are those of its own train-mode passes."""
    theta = {name: p.detach().clone() for name, p in pair.named_parameters() if not name.startswith("teacher.")}
    xi = {name: p.detach().clone() for name, p in pair.teacher.named_parameters()}
    tracked = {name: int(b) for name, b in pair.teacher.named_buffers() if name.endswith("tracked")}
    Step(DynACL(ACL(PGD(steps=1)), momentum=0.9), pair).train()(batch, clock, Key(0))
    for name, p in pair.teacher.named_parameters():
        assert torch.allclose(p, 0.9 * xi[name] + 0.1 * theta[name], atol=1e-6)
    now = {name: int(b) for name, b in pair.teacher.named_buffers() if name.endswith("tracked")}
    assert now == {name: count + 1 for name, count in tracked.items()}


def test_the_gradient_reaches_the_network_and_not_the_teacher(pair, batch, clock):
    step = Step(DynACL(ACL(PGD(steps=1))), pair).train()
    step(batch, clock, Key(0))["loss"].backward()
    for name, p in pair.named_parameters():
        assert (p.grad is None) == name.startswith("teacher."), name
        assert p.requires_grad != name.startswith("teacher.")


def test_the_attack_moves_both_views_within_the_ball(pair, batch):
    """The gradient of the pixels goes through both networks."""
    method = ACL(PGD(Linf(0.05), steps=2))
    x_adv = method.adversarial(_both(pair), batch.views, Key(0))
    start = ACL(PGD(Linf(0.05), steps=0)).adversarial(_both(pair), batch.views, Key(0))
    moved = (x_adv - start).abs().amax((1, 2, 3, 4))
    assert (moved > 0).all()
    assert Linf(0.05).distance(x_adv, batch.views).max() <= 0.05 * (1 + 1e-5)


def test_the_defaults_are_the_released_ones():
    assert DynACL() == DynACL(ACL(PGD(steps=5), 0.5, StepSchedule(0, 2 / 3, 50)), 0.99)
    with pytest.raises(ValueError, match="momentum is a number in"):
        DynACL(momentum=1.5)
