"""AutoLoRa: its loss against loops, who learns from what, and the automatic rate against the loop it stands for."""

from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.methods.autolora import FULL, AutoLoRa, AutoRate
from unshaken.methods.base import Step
from unshaken.nets.dual_bn import merge_route
from unshaken.nets.lora import LowRank, with_lora, without_lora
from unshaken.nets.network import MethodState, Network

SHORT = AutoLoRa(PGD(steps=3, init="gaussian"))
each_form = pytest.mark.parametrize("natural", ["clean", "adv"], ids=["dual", "single"])
each_accuracy = pytest.mark.parametrize("accuracy", [0.0, 0.25, 1.0])


@pytest.fixture
def net(net: Network) -> Network:
    """With a branch that has learned something."""
    with_lora(net.encoder, Key("branch"))
    with torch.no_grad():
        for layer in low_rank(net):
            layer.B.normal_(0, 0.05, generator=Key("B").on("cpu"))
    net.memory = MethodState(AutoLoRa.memory)
    net.memory.accuracy.fill_(0.25)
    return net


def low_rank(net: torch.nn.Module) -> list[LowRank]:
    return [module for module in net.modules() if isinstance(module, LowRank)]


def softmax(row: list[float]) -> list[float]:
    return [exp(a) / sum(exp(b) for b in row) for a in row]


def surprise(logits: Tensor, label: Tensor) -> float:
    rows = zip(logits.double().tolist(), label.tolist(), strict=True)
    return -sum(log(softmax(row)[y]) for row, y in rows) / len(label)


def divergence(clean: Tensor, adv: Tensor) -> float:
    rows = [(softmax(a), softmax(b)) for a, b in zip(clean.double().tolist(), adv.double().tolist(), strict=True)]
    return sum(a * log(a / b) for p, q in rows for a, b in zip(p, q, strict=True)) / len(rows)


@each_form
@each_accuracy
@pytest.mark.parametrize("scale", [6.0, 2.0])
def test_the_loss_is_the_weighted_sum_of_its_three_terms(natural, accuracy, scale, net, batch, clock, calls):
    net.memory.accuracy.fill_(accuracy)
    terms = replace(SHORT, natural=natural, scale=scale).loss(net, batch, clock, Key(0))
    clean, adv = (call.logits for call in calls[-2:])
    first, second, third = surprise(clean, batch.label), surprise(adv, batch.label), divergence(clean, adv)
    expected = (1 - accuracy) * first + accuracy * second + scale * accuracy * third
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-4)
    named = {"natural": first, "robust": second, "divergence": third, "l1": 1 - accuracy, "l2": scale * accuracy}
    for name, value in named.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6)


@each_form
def test_the_order_routes_modes_and_branches_of_its_forward_passes(natural, net, batch, clock, calls):
    """The natural images alone go through W + ΔW: once, before the adversarial ones."""
    on = []
    net.register_forward_pre_hook(lambda net, given: on.append(low_rank(net)[0].switch.on))
    replace(SHORT, natural=natural).loss(net, batch, clock, Key(0))
    attack = [("adv", {False})] * 3
    assert [(call.route, call.modes) for call in calls] == [*attack, (natural, {True}), ("adv", {True})]
    assert on == [False, False, False, True, False]
    assert torch.equal(calls[-2].x, batch.views[0])
    assert not calls[-1].x.requires_grad


def test_the_attack_raises_the_cross_entropy_of_the_weights_alone(net, batch, clock, calls):
    """10 steps of 2/255 from x + 0.001 N(0, 1) in eval mode, without the branch."""
    x, eps, rng = batch.views[0], 8 / 255, (Key(2) / "attack").on("cpu")
    adv = merge_route(net, "adv").eval()
    x_adv = (x + 0.001 * torch.empty_like(x).normal_(generator=rng)).clamp(0, 1)
    for _ in range(10):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(adv(x_adv, "adv"), batch.label), x_adv)
        x_adv = (x_adv.detach() + 2 / 255 * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    AutoLoRa().loss(net, batch, clock, Key(2))
    ours = calls[-1].x
    assert ((ours - x_adv).abs() < 1e-6).float().mean() > 0.95  # a gradient of almost 0 may have either sign
    assert surprise(adv(ours, "adv"), batch.label) > surprise(calls[0].logits, batch.label)


def gradients(net: Network, batch, clock, accuracy: float, **changes) -> dict[str, Tensor]:
    net.memory.accuracy.fill_(accuracy)
    net.zero_grad()
    replace(SHORT, **changes).loss(net, batch, clock, Key(0))["loss"].backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}


def kinds(names) -> set[str]:
    return {"head" if n.startswith("head") else "branch" if n[-2:] in (".A", ".B") else "other" for n in names}


@each_form
def test_natural_images_train_only_the_branch_and_the_head(natural, net, batch, clock):
    """At SA = 0 the loss is CE(natural)."""
    learned = gradients(net, batch, clock, 0.0, natural=natural)
    assert kinds(learned) == {"branch", "head"}
    assert len(learned) == 2 * len(low_rank(net)) + 2


@each_form
def test_adversarial_images_train_everything_except_the_branch(natural, net, batch, clock):
    """At SA = 1 and scale 0 the loss is CE(adversarial)."""
    learned = gradients(net, batch, clock, 1.0, natural=natural, scale=0.0)
    assert kinds(learned) == {"other", "head"}
    unrouted = {n for n, _ in net.named_parameters() if n[-2:] not in (".A", ".B") and ".clean." not in n}
    assert set(learned) == unrouted


@each_form
def test_the_divergence_teaches_both(natural, net, batch, clock):
    learned = gradients(net, batch, clock, 1.0, natural=natural, scale=6.0)
    assert kinds(learned) == {"branch", "other", "head"}
    assert {n for n in learned if ".clean." in n} == set()


def test_the_gradients_are_those_of_two_networks(net, batch, clock):
    """A plain one with weights W + B A / 8, W and all else fixed; a plain one with weights W; one head on both."""
    found = gradients(merge_route(net, "adv"), batch, clock, 0.25)
    lone = merge_route(net, "adv")
    plain, weights = without_lora(lone).train(), dict(lone.named_parameters())
    head = {name: weights[name] for name in ("head.weight", "head.bias")}
    fixed = {name: p.detach() for name, p in plain.named_parameters()} | head
    for name, layer in lone.named_modules():
        if isinstance(layer, LowRank):
            w = fixed[f"{name}.weight"]
            fixed[f"{name}.weight"] = w + (layer.B @ layer.A).reshape(w.shape) / 8
    learning = {name: weights[name.replace(".weight", ".layer.weight")] for name in fixed if name not in weights}
    learning |= {name: weights[name] for name in fixed if name in weights}
    attack = (Key(0) / "attack").on("cpu")
    x_adv = SHORT.attack.maximise(
        lambda x: cross_entropy(plain.eval()(x, "adv"), batch.label, reduction="none"), batch.views[0], attack
    )
    clean = functional_call(plain.train(), fixed, (batch.views[0], "adv"))
    adv = functional_call(plain, learning, (x_adv, "adv"))
    pointwise = clean.softmax(1) * (clean.log_softmax(1) - adv.log_softmax(1))
    loss = 0.75 * cross_entropy(clean, batch.label) + 0.25 * cross_entropy(adv, batch.label)
    (loss + 1.5 * pointwise.sum() / len(batch.label)).backward()
    assert set(found) == set(weights)
    for name, parameter in weights.items():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-5), name


@each_form
def test_what_it_leaves_behind(natural, net, batch, clock):
    """Modes, what learns and the switch as they were; the clean route is left alone unless it is asked for."""
    before = {n: b.clone() for n, b in net.named_buffers()}
    replace(SHORT, natural=natural).loss(net, batch, clock, Key(0))
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert not any(layer.switch.on for layer in low_rank(net))
    moved = {n for n, b in net.named_buffers() if not torch.equal(b, before[n])}
    counts = [b.item() - before[n].item() for n, b in net.named_buffers() if n.endswith("adv.num_batches_tracked")]
    assert set(counts) == {1 if natural == "clean" else 2}
    assert any(".clean." in n for n in moved) == (natural == "clean")


def test_a_new_branch_computes_the_same_as_the_network(net, batch, clock, calls):
    """With B = 0 and no attack the divergence is 0, and nothing but B learns in the branch."""
    with torch.no_grad():
        for layer in low_rank(net):
            layer.B.zero_()
    still = replace(SHORT, attack=PGD(Linf(1e-9), steps=0))
    terms = still.loss(net, batch, clock, Key(0))
    assert torch.allclose(calls[-1].logits, calls[-2].logits, atol=1e-5)
    assert abs(terms["divergence"].item()) < 1e-9
    net.zero_grad()
    terms["natural"].backward()
    assert all(layer.B.grad.any() and not layer.A.grad.any() for layer in low_rank(net))


@pytest.mark.parametrize(
    ("natural", "measured", "route", "on"),
    [
        ("adv", "natural", "adv", True),
        ("adv", "released", "adv", False),  # the flag that asks for the branch is not passed on
        ("clean", "natural", "clean", True),
        ("clean", "released", "clean", True),
    ],
)
def test_accuracy_is_measured_on_the_selected_branch(natural, measured, route, on, net, batch, calls):
    switched = []
    net.register_forward_pre_hook(lambda net, given: switched.append(low_rank(net)[0].switch.on))
    right = AutoLoRa(natural=natural, measured=measured).correct(net, batch.views[0], batch.label)
    (call,) = calls
    assert (call.route, call.modes, switched) == (route, {False}, [on])
    expected = [
        max(range(4), key=row.__getitem__) == y for row, y in zip(call.logits.tolist(), batch.label, strict=True)
    ]
    assert right.tolist() == expected
    assert all(module.training for module in net.modules())


def test_a_step_changes_all_trained_parameters(net, batch, clock):
    method = replace(SHORT, natural="adv")
    step = Step(method, merge_route(net, "adv"))
    step.net.memory.accuracy.fill_(0.5)
    before = {n: p.detach().clone() for n, p in step.named_parameters()}
    rule = torch.optim.SGD(step.parameters(), lr=0.1)
    step(batch, clock, Key(0))["loss"].backward()
    rule.step()
    assert all(not torch.equal(p, before[n]) for n, p in step.named_parameters())
    assert "net.memory.accuracy" in step.state_dict()


def test_the_defaults():
    method = AutoLoRa()
    assert (method.attack, method.scale) == (PGD(Linf(8 / 255), steps=10, rel_step_size=1 / 4, init="gaussian"), 6.0)
    assert (method.rank, method.alpha, method.natural, method.routes) == (8, 1.0, "adv", ("adv",))
    assert replace(method, natural="clean").routes == ("clean", "adv")
    assert AutoRate() == AutoRate(0.1, 2.0, 0.75, (0, 16, 24, 28, 36, 40, 42, 44, 46, 48, 50), 50, "paper")


@pytest.mark.parametrize("changes", [{"rank": 0}, {"scale": -1.0}, {"scale": float("nan")}, {"alpha": float("inf")}])
def test_invalid_fields_of_autolora_are_refused(changes):
    with pytest.raises(ValueError, match=r"is a (whole |finite )?number"):
        AutoLoRa(**changes)


def by_a_loop(history: list[float], w: tuple[int, ...], released: bool = False) -> list[tuple[float, bool]]:
    """The scheduler as a training loop would have it, with a state: what it says after each epoch."""
    eta, decisions, j, best = 0.1, [], 1, -1.0
    halved_at, best_at = {0: False}, {}
    for epoch, accuracy in enumerate(history):
        best = accuracy if accuracy > best else best
        if epoch == 0:
            best_at[0] = best
        reload = False
        if j < len(w) and epoch == w[j]:
            count = 0
            for i in range(w[j - 1], w[j]):
                if history[i + 1] > history[i]:
                    count += 1
            best_at[j] = best
            first = count < 0.75 * (w[j] - w[j - 1])
            second = best_at[j] == best_at[j - 1] and (j > 1 if released else not halved_at[j - 1])
            if first or second:
                eta, reload = eta / 2, True
            halved_at[j] = reload
            j += 1
        decisions.append((eta, reload))
    return decisions


def rising(count: int, start: float = 0.1) -> list[float]:
    return [start + 0.01 * k for k in range(count)]


FALLS = [0.9, *rising(49)]
"""The first epoch is the best for good, though all others rise."""
STAIRS = [0.01 * (k // 3) for k in range(50)]
HISTORIES = {
    "rising": rising(50),
    "falling": rising(50)[::-1],
    "flat": [0.3] * 50,
    "best first": FALLS,
    "stairs": STAIRS,
    "three of four": [0.01 * k - (0.03 if k % 4 == 3 else 0) for k in range(50)],
    "stuck late": rising(30) + [0.39] * 20,
    "by chance": torch.rand(50, generator=Key("lr").on("cpu")).tolist(),
    "rising by chance": (torch.rand(50, generator=Key(1).on("cpu")) * 0.1 + torch.arange(50) / 50).tolist(),
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("w", [FULL, tuple(range(0, 50, 4))], ids=["full", "linear"])
@pytest.mark.parametrize("unchanged", ["paper", "released"])
def test_the_rate_against_a_loop(history, w, unchanged):
    lr = AutoRate(at=w, unchanged=unchanged)
    decisions = [lr(history[: k + 1], 50) for k in range(50)]
    assert decisions == by_a_loop(history, w, unchanged == "released")


def halvings(history: list[float], **changes) -> list[int]:
    return [k for k in range(len(history)) if AutoRate(**changes)(history[: k + 1], 50)[1]]


def test_the_rate_of_hand_made_histories():
    assert halvings(HISTORIES["rising"]) == []
    assert halvings(HISTORIES["flat"]) == [16, 24, 28, 36, 40, 42, 44, 46, 48]
    assert AutoRate()(HISTORIES["flat"], 50) == (0.1 / 2**9, False)
    # condition 2 alone: all rise, but none above the first; after a halving it waits for one checkpoint
    assert halvings(FALLS) == [16, 28, 40, 44, 48]
    assert halvings(FALLS, unchanged="released") == [24, 28, 36, 40, 42, 44, 46, 48]
    assert AutoRate()([], 50) == (0.1, False)
    assert AutoRate()(HISTORIES["flat"][:16], 50) == (0.1, False)
    assert AutoRate()(HISTORIES["flat"][:17], 50) == (0.05, True)
    assert AutoRate()(HISTORIES["flat"][:18], 50) == (0.05, False)


@pytest.mark.parametrize(("rises", "halved"), [(11, True), (12, False)])
def test_three_quarters_of_a_window_are_enough(rises, halved):
    """12 of 16."""
    history = rising(rises + 1)
    history += [history[-1]] * (17 - len(history))
    assert AutoRate()(history, 50)[1] == halved


def test_the_checkpoints_of_other_lengths():
    lr = AutoRate()
    assert lr.checkpoints(50) == FULL
    assert lr.checkpoints(100) == tuple(2 * w for w in FULL)
    assert lr.checkpoints(25) == (0, 8, 12, 14, 18, 20, 21, 22, 23, 24, 25)
    assert lr.checkpoints(15) == (0, 5, 7, 8, 11, 12, 13, 14, 15)
    assert lr.checkpoints(1) == (0, 1)
    assert lr([0.5], 1) == (0.1, False)


@pytest.mark.parametrize("changes", [{"at": (16, 24)}, {"at": (0, 8, 8)}, {"at": ()}, {"start": 0.0}, {"divide": 1.0}])
def test_invalid_fields_of_autorate_are_refused(changes):
    with pytest.raises(ValueError, match=r"an automatic rate has|is a number"):
        AutoRate(**changes)
