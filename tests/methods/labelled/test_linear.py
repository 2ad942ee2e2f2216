"""SLF and ALF: cross-entropy of a classifier on an encoder that stays bit for bit."""

import copy
from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.methods.base import Step
from unshaken.methods.supervised import ALF, SLF
from unshaken.nets.dual_bn import merge_route

each_method = pytest.mark.parametrize("method", [SLF(), ALF(PGD(steps=3))], ids=["slf", "alf"])


def mean_surprise(logits: Tensor, label: Tensor) -> float:
    """−(1/N) Σ log softmax(logits)_y, in float64."""
    rows = [(row, y) for row, y in zip(logits.double().tolist(), label.tolist(), strict=True)]
    return -sum(log(exp(row[y]) / sum(exp(value) for value in row)) for row, y in rows) / len(rows)


def test_slf(net, batch, clock, calls):
    terms = Step(SLF(), net).train()(batch, clock, Key(0))
    (call,) = calls
    assert torch.equal(call.x, batch.views[0])
    assert (call.route, call.modes) == ("adv", {False})
    assert terms["loss"].item() == pytest.approx(mean_surprise(call.logits, batch.label), rel=1e-5)


def test_alf(net, batch, clock, calls):
    terms = Step(ALF(PGD(steps=4)), net).train()(batch, clock, Key(0))
    assert [(call.route, call.modes) for call in calls] == [("adv", {False})] * 5
    assert terms["loss"].item() == pytest.approx(mean_surprise(calls[-1].logits, batch.label), rel=1e-5)
    assert terms["loss"].item() > mean_surprise(calls[0].logits, batch.label)
    assert not calls[-1].x.requires_grad


@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(0.5)], ids=str)
def test_alf_sees_the_attack_on_its_own_cross_entropy(ball, net, batch, clock, calls):
    attack = PGD(ball, steps=3)
    Step(ALF(attack), net).train()(batch, clock, Key(5))
    lone = merge_route(net, "adv").eval()
    x, rng = batch.views[0], (Key(5) / "attack").on("cpu")
    x_adv = attack.maximise(lambda x: cross_entropy(lone(x, "adv"), batch.label, reduction="none"), x, rng)
    assert torch.allclose(calls[-1].x, x_adv, atol=1e-6)
    assert ball.distance(calls[-1].x, x).max() <= ball.eps * (1 + 1e-5)


@each_method
def test_the_encoder_stays_bit_for_bit_while_the_classifier_learns(method, net, batch, clock):
    step = Step(method, net).train()
    before = copy.deepcopy(net.state_dict())
    rule = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=2e-4)
    losses = []
    for k in range(5):
        rule.zero_grad()
        loss = step(batch, clock, Key(k))["loss"]
        loss.backward()
        rule.step()
        losses.append(loss.item())
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in net.encoder.parameters())


@each_method
def test_a_plain_network_will_do(method, net, batch, clock):
    lone = Step(method, merge_route(net, "adv")).train()
    expected = Step(method, net).train()(batch, clock, Key(0))
    assert torch.equal(lone(batch, clock, Key(0))["loss"], expected["loss"])


def test_the_defaults():
    assert ALF().attack == PGD(Linf(8 / 255), steps=10, rel_step_size=1 / 4, init="uniform")
