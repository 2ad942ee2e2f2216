"""FARE, LORE and ProFeAT: losses and gradients against definitions in float64, image by image."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.methods.base import Step
from unshaken.methods.fare import FARE
from unshaken.methods.lore import LORE
from unshaken.methods.profeat import ProFeAT
from unshaken.nets.dual_bn import merge_route
from unshaken.nets.heads import Multiplier, Projection
from unshaken.nets.network import Network

ATTACK = PGD(Linf(0.05), steps=2)


def seen_by(net: Network) -> list[tuple[Tensor, Tensor]]:
    """Record the student's inputs and outputs."""
    made: list[tuple[Tensor, Tensor]] = []
    net.register_forward_hook(lambda used, given, z: made.append((given[0], z)) if used is net else None)
    return made


def distance(a: Tensor, b: Tensor) -> list[float]:
    """Squared distances, one image at a time in float64."""
    return [float((p - q).square().sum()) for p, q in zip(a.detach().double(), b.detach().double(), strict=True)]


def target_of(net: Network, x: Tensor) -> Tensor:
    return copy.deepcopy(net.teacher).eval()(x, "clean").detach()


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def test_fare_is_the_squared_distance_to_the_original(student, weak, clock):
    target, made = target_of(student, weak.views[0]), seen_by(student)
    clean = copy.deepcopy(student).eval()(weak.views[0], "shared").detach()
    terms = Step(FARE(ATTACK), student).train()(weak, clock, Key(0))
    x_adv, z_adv = made[-1]
    assert (x_adv - weak.views[0]).abs().max() <= 0.05 * (1 + 1e-5)
    assert (x_adv != weak.views[0]).any()
    d, unit = distance(z_adv, target), sum(float(t.double().square().sum()) for t in target) / len(target)
    assert terms["loss"].item() == pytest.approx(sum(d) / len(d), rel=1e-4)
    assert terms["robust"].item() == pytest.approx(sum(d) / len(d) / unit, rel=1e-4)
    moved = distance(clean, target)
    assert terms["drift"].item() == pytest.approx(sum(moved) / len(moved) / unit, rel=1e-4)
    spread = distance(target, target.mean(0).expand_as(target))
    assert terms["constant"].item() == pytest.approx(sum(spread) / len(spread) / unit, rel=1e-4)


def test_fare_s_gradient_is_that_of_the_definition_at_the_attack(student, weak, clock):
    twin, made = copy.deepcopy(student).double(), seen_by(student)
    target = target_of(student, weak.views[0]).double()
    Step(FARE(ATTACK), student).train()(weak, clock, Key(0))["loss"].backward()
    twin.train().encoder(made[-1][0].double()).sub(target).square().sum(1).mean().backward()
    for name, grad in gradients(student.encoder).items():
        other = dict(twin.encoder.named_parameters())[name].grad
        assert torch.allclose(grad.double(), other, rtol=1e-2, atol=1e-4 * float(other.abs().max())), name
    for name, statistic in student.encoder.named_buffers():  # those of attacked images alone
        assert torch.allclose(statistic.double(), dict(twin.encoder.named_buffers())[name].double(), rtol=1e-4), name


def test_an_attack_on_a_copy_of_the_teacher_needs_its_random_start(student, weak, clock):
    """The student is the teacher in the first step, so without a start the attack would not move; with one it does."""
    student.teacher = Network(merge_route(student.encoder, "shared"), nn.Identity())
    step, made = Step(FARE(PGD(Linf(0.05), steps=3)), student).train(), seen_by(student)
    step.frozen_norms = True
    step.train()
    terms = step(weak, clock, Key(0))
    moved = (made[-1][0] - weak.views[0]).abs()
    assert float((moved > 0.03).float().mean()) > 0.5
    assert terms["robust"].item() > 1e-4


@pytest.fixture
def with_multiplier(student) -> Network:
    torch.manual_seed(0)
    student.head = Multiplier(hidden=8).build(student.encoder.features)
    return student


def test_lore_is_the_lagrangian(with_multiplier, weak, clock):
    net, x = with_multiplier, weak.views[0]
    target, made = target_of(net, x), seen_by(net)
    terms = Step(LORE(ATTACK, rho=0.2, updates=1), net).train()(weak, clock, Key(0))
    z, z_adv = made[-1][1]
    unit = torch.stack([t.double() / sum(float(v) ** 2 for v in t) ** 0.5 for t in target])
    lam = softplus(copy.deepcopy(net.head.net).double()(unit))[:, 0].detach()
    c = [d - 0.2 * float(t.double().square().sum()) for d, t in zip(distance(z, target), target, strict=True)]
    adv = distance(z_adv, target)
    primal = sum(adv) / 6 + sum(float(a) * b for a, b in zip(lam, c, strict=True)) / 6
    dual = sum(float(a) * b for a, b in zip(lam, c, strict=True)) / 6
    assert terms["loss"].item() == pytest.approx(primal - dual, rel=1e-3)
    assert terms["lambda"].item() == pytest.approx(float(lam.mean()), rel=1e-4)


def test_lore_descends_for_the_encoder_and_ascends_for_the_multiplier(with_multiplier, weak, clock):
    """∂/∂φ is that of L + λ c with λ fixed; ∂/∂ω is minus that of λ c with c fixed, in a batch's last update only."""
    net, x = with_multiplier, weak.views[0]
    twin, made = copy.deepcopy(net).double(), seen_by(net)
    target = target_of(net, x).double()
    method = LORE(ATTACK, rho=0.2, updates=2)
    step = Step(method, net).train()
    step(weak, replace(clock, update=1), Key(0))["loss"].backward()
    images = made[-1][0].double()
    z, z_adv = twin.train()(images, "shared")
    c = (z - target).square().sum(1) - 0.2 * target.square().sum(1)
    lam = twin.head.multiplier(target)
    ((z_adv - target).square().sum(1).mean() + (lam.detach() * c).mean()).backward(
        inputs=list(twin.encoder.parameters()), retain_graph=True
    )
    (-(lam * c.detach()).mean()).backward(inputs=list(twin.head.parameters()))
    for name, grad in gradients(net).items():
        other = dict(twin.named_parameters())[name].grad
        assert torch.allclose(grad.double(), other, rtol=1e-2, atol=1e-3 * float(other.abs().max())), name
    net.zero_grad()
    step(weak, clock, Key(0))["loss"].backward()
    assert all(p.grad is None for p in net.head.parameters())
    assert any(p.grad is not None for p in net.encoder.parameters())


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0])
def test_profeat_is_its_two_distances_behind_and_before_the_projector(w, student, batch, clock):
    torch.manual_seed(0)
    student.head = Projection(2, hidden=8, out=4, norm="none").build(student.encoder.features)
    target, made = target_of(student, batch.views[0]), []
    student.encoder.register_forward_hook(lambda used, given, z: made.append((given[0], z, used.training)))
    terms = Step(ProFeAT(ATTACK, beta=3.0, w=w), student).train()(batch, clock, Key(0))
    (x_s, f, _), *climb, (x_adv, f_adv, training) = made
    assert torch.equal(x_s.cpu() * 1.0, batch.views[1])
    assert [mode for *_, mode in climb] == [False] * 2
    assert training
    g = copy.deepcopy(student.head).double()

    def d(a: Tensor, b: Tensor) -> float:
        a, b = a.detach().double(), b.detach().double()
        pairs = [((1 - w), a, b), (w, g(a), g(b))]
        return -sum(float(k * (p * q).sum(1).div(p.norm(dim=1) * q.norm(dim=1)).mean()) for k, p, q in pairs)

    assert terms["distil"].item() == pytest.approx(d(f, target), rel=1e-4)
    assert terms["robust"].item() == pytest.approx(d(f_adv, f), rel=1e-4)
    assert terms["loss"].item() == pytest.approx(d(f, target) + 3 * d(f_adv, f), rel=1e-4)
    terms["loss"].backward()
    assert all(p.grad is None for p in student.head.parameters())
    assert (x_adv - x_s).abs().max() <= 0.05 * (1 + 1e-5)


def test_profeat_s_attack_leaves_the_student_s_features_and_the_teacher_s_projection(student, batch, clock):
    """−cos(f(x̃), f(x_s)) − cos(g(f(x̃)), g(T(x_w))): the features' distance is to the student's own."""
    torch.manual_seed(0)
    student.head = Projection(2, hidden=8, out=4, norm="none").build(student.encoder.features)
    target, made, twin = target_of(student, batch.views[0]).double(), [], copy.deepcopy(student)
    twin.train().encoder(batch.views[1])  # moves the running statistics as the clean pass does
    twin = twin.eval().double()
    student.encoder.register_forward_hook(lambda used, given, z: made.append((given[0], z)))
    Step(ProFeAT(ATTACK), student).train()(batch, clock, Key(0))
    (_, f), (start, _), (after, _), _ = made
    x = start.detach().double().requires_grad_()
    z = twin.encoder(x)
    pairs = ((z, f.detach().double()), (twin.head(z), twin.head(target)))
    (-sum(torch.cosine_similarity(a, b).sum() for a, b in pairs)).backward()
    expected = ATTACK.ball.project(start + 0.05 / 4 * x.grad.sign().float(), batch.views[1])
    assert (after - expected).abs().lt(1e-6).double().mean() > 0.99


def test_the_defaults_are_the_papers():
    assert FARE().attack == PGD(Linf(4 / 255), steps=10)
    assert (LORE().rho, LORE().updates, LORE().dual_rate) == (0.1, 5, 50.0)
    assert (ProFeAT().beta, ProFeAT().w, ProFeAT().attack.steps) == (8.0, 0.5, 5)
