"""DeACL: the distance to a teacher, clean and under attack."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.methods.base import Step
from unshaken.methods.deacl import DeACL
from unshaken.nets.network import Network


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """One pair at a time, in float64."""
    total = 0.0
    for p, q in zip(a.detach().double(), b.detach().double(), strict=True):
        total += float((p * q).sum() / (p.square().sum() * q.square().sum()).sqrt())
    return total / len(a)


def outputs(net: Network) -> list[Tensor]:
    made: list[Tensor] = []
    net.register_forward_hook(lambda used, given, z: made.append(z) if used is net else None)
    return made


@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.0])
def test_the_objective(gamma, student, weak, clock):
    """−cos(f(x), T(x)) − γ cos(f(x̃), f(x)), from one forward pass of both."""
    target = copy.deepcopy(student.teacher).eval()(weak.views[0], "clean")
    made = outputs(student)
    terms = Step(DeACL(PGD(steps=2), gamma), student).train()(weak, clock, Key(0))
    f, f_adv = made[-1]
    distil, robust = -mean_cosine(f, target), -mean_cosine(f_adv, f)
    assert terms["distil"].item() == pytest.approx(distil, rel=1e-4)
    assert terms["robust"].item() == pytest.approx(robust, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(distil + gamma * robust, rel=1e-4)
    directions = target.detach().double() / target.detach().double().norm(dim=1, keepdim=True)
    best = directions.mean(0)  # of all constants c, the one with the largest mean cosine
    assert terms["constant"].item() == pytest.approx(-float((directions @ (best / best.norm())).mean()), rel=1e-5)


def test_both_features_of_the_second_term_learn(student, weak, clock):
    """The gradient is that of the definition with nothing stopped."""
    step, twin = Step(DeACL(PGD(steps=1)), student).train(), copy.deepcopy(student)
    seen: list[Tensor] = []
    student.register_forward_pre_hook(lambda net, given: seen.append(given[0]))
    step(weak, clock, Key(0))["loss"].backward()
    twin.teacher.eval()
    f, f_adv = twin.train()(seen[-1], "shared")
    twin.teacher.eval()
    target = twin.teacher(weak.views[0], "clean").detach()
    loss = -cosine_similarity(f, target).mean() - 2 * cosine_similarity(f_adv, f).mean()
    loss.backward()
    for (name, p), q in zip(student.encoder.named_parameters(), twin.encoder.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-4 * float(q.grad.abs().max())), name


def test_the_teacher_is_frozen_in_eval_mode(student, weak, clock):
    before = copy.deepcopy(student.teacher.state_dict())
    step = Step(DeACL(PGD(steps=1)), student).train()
    assert {m.training for m in student.teacher.modules()} == {False}
    assert {m.training for m in student.encoder.modules()} == {True}
    step(weak, clock, Key(0))["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in student.teacher.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in student.teacher.parameters())


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.5)], ids=str)
def test_the_attack_leads_away_from_the_teacher_in_eval_mode(ball, student, weak, clock):
    seen: list[tuple[Tensor, bool]] = []
    student.register_forward_pre_hook(lambda net, given: seen.append((given[0], net.encoder.training)))
    Step(DeACL(PGD(ball, steps=3)), student).train()(weak, clock, Key(0))
    *climb, (stacked, training) = seen
    assert [mode for _, mode in climb] == [False] * 3
    assert training
    x, x_adv = stacked
    assert torch.equal(x, weak.views[0])
    assert ball.distance(x_adv, x).max() <= ball.eps * (1 + 1e-5)
    student.eval()
    target = student.teacher(x, "clean")
    away, start = (mean_cosine(student(image, "shared"), target) for image in (x_adv, climb[0][0]))
    assert away < start
    assert away < mean_cosine(student(x, "shared"), target)


def test_the_defaults_are_those_of_the_authors_scripts():
    assert DeACL() == DeACL(PGD(Linf(8 / 255), steps=5), gamma=2.0)
