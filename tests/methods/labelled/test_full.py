"""AFF: TRADES over two routes or one, against an inner maximisation spelled out."""

import copy
from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.methods.base import Step
from unshaken.methods.supervised import AFF
from unshaken.nets.dual_bn import merge_route

SHORT = AFF(PGD(steps=3, init="gaussian"))
each_form = pytest.mark.parametrize("natural", ["clean", "adv"], ids=["dual", "single"])


def softmax(row: list[float]) -> list[float]:
    return [exp(a) / sum(exp(b) for b in row) for a in row]


def divergence(clean: Tensor, adv: Tensor) -> float:
    """(1/N) Σ KL(softmax(clean) ‖ softmax(adv)), in float64."""
    rows = [(softmax(a), softmax(b)) for a, b in zip(clean.double().tolist(), adv.double().tolist(), strict=True)]
    return sum(a * log(a / b) for p, q in rows for a, b in zip(p, q, strict=True)) / len(rows)


@each_form
@pytest.mark.parametrize("beta", [1.0, 6.0])
def test_the_loss_is_trades(natural, beta, net, batch, clock, calls):
    terms = replace(SHORT, natural=natural, beta=beta).loss(net, batch, clock, Key(0))
    clean, adv = (call.logits for call in calls[-2:])
    surprise = -sum(log(softmax(row)[y]) for row, y in zip(clean.tolist(), batch.label.tolist(), strict=True)) / 6
    robust = divergence(clean, adv)
    assert terms["natural"].item() == pytest.approx(surprise, rel=1e-4)
    assert terms["robust"].item() == pytest.approx(robust, rel=1e-4, abs=1e-6)
    assert terms["loss"].item() == pytest.approx(surprise + beta * robust, rel=1e-4)


@each_form
def test_the_order_routes_and_modes_of_its_forward_passes(natural, net, batch, clock, calls):
    replace(SHORT, natural=natural).loss(net, batch, clock, Key(0))
    attack = [(natural, {False})] + [("adv", {False})] * 3
    assert [(call.route, call.modes) for call in calls] == [*attack, (natural, {True}), ("adv", {True})]
    assert torch.equal(calls[0].x, batch.views[0])
    assert torch.equal(calls[-2].x, batch.views[0])
    assert not calls[-1].x.requires_grad


@each_form
def test_the_attack_raises_the_divergence_from_a_fixed_clean_target(natural, net, batch, clock, calls):
    """10 steps of 2/255 from x + 0.001 N(0, 1), on KL(softmax(target) ‖ softmax(c(f(x̃)))) in eval mode."""
    x, eps, rng = batch.views[0], 8 / 255, (Key(2) / "attack").on("cpu")
    target, adv = (merge_route(net, route).eval() for route in (natural, "adv"))
    fixed = target(x, natural).detach().softmax(1)
    x_adv = (x + 0.001 * torch.empty_like(x).normal_(generator=rng)).clamp(0, 1)
    for _ in range(10):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(kl_div(adv(x_adv, "adv").log_softmax(1), fixed, reduction="sum"), x_adv)
        x_adv = (x_adv.detach() + 2 / 255 * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    AFF(natural=natural).loss(net, batch, clock, Key(2))
    ours = calls[-1].x
    assert ((ours - x_adv).abs() < 1e-6).float().mean() > 0.95  # a gradient of almost 0 may have either sign
    start, end = calls[1].logits, adv(ours, "adv")
    assert divergence(calls[0].logits, end) > divergence(calls[0].logits, start)


def test_both_terms_give_gradients_to_all_parameters_in_the_dual_form(net, batch, clock):
    step = Step(SHORT, net).train()
    step(batch, clock, Key(0))["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(("natural", "counts"), [("clean", (1, 1)), ("adv", (0, 2))], ids=["dual", "single"])
def test_each_route_updates_statistics_only_from_its_own_images(natural, counts, net, batch, clock):
    norms = net.encoder.backbone.bn1.routes
    before, clean = (
        {r: int(n.num_batches_tracked) for r, n in norms.items()},
        copy.deepcopy(norms["clean"].state_dict()),
    )
    replace(SHORT, natural=natural).loss(net, batch, clock, Key(0))
    assert tuple(int(norms[r].num_batches_tracked) - before[r] for r in ("clean", "adv")) == counts
    if natural == "adv":
        assert all(torch.equal(value, clean[name]) for name, value in norms["clean"].state_dict().items())


def test_a_plain_network_always_takes_the_single_form(net, batch, clock):
    expected = replace(SHORT, natural="adv").loss(copy.deepcopy(net), batch, clock, Key(0))["loss"]
    for natural in ("clean", "adv"):
        loss = replace(SHORT, natural=natural).loss(merge_route(net, "adv"), batch, clock, Key(0))["loss"]
        assert torch.equal(loss, expected)


def test_the_attack_may_have_the_clean_route_s_target_while_the_adversarial_one_learns(net, batch, clock, calls):
    method = replace(SHORT, natural="adv", target="clean")
    assert method.routes == ("clean", "adv")
    method.loss(net, batch, clock, Key(0))
    attack = [("clean", {False})] + [("adv", {False})] * 3
    assert [(call.route, call.modes) for call in calls] == [*attack, ("adv", {True}), ("adv", {True})]


def test_the_defaults():
    assert AFF() == AFF(PGD(Linf(8 / 255), steps=10, rel_step_size=1 / 4, init="gaussian"), 6.0, "clean")
