"""Every planted fault is found under its name with no alarm but what it implies; sound classifiers raise none."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from tests.diagnostics.sound import SOUND, cnn, mlp, model_of, of
from torch import Tensor, nn

from unshaken.attacks.ball import L2, Linf
from unshaken.base.rng import Key
from unshaken.diagnostics import gradient_checks as gradients
from unshaken.diagnostics import repeat_checks, sanity_checks
from unshaken.diagnostics.attack_checks import AttackProbe, huge_eps, outdone
from unshaken.diagnostics.constant_answer import no_better
from unshaken.diagnostics.doctor import all_checks, quick_checks, run_checks
from unshaken.diagnostics.subject import ModelUnderTest
from unshaken.nets.dual_bn import RoutedBatchNorm
from unshaken.nets.network import Normalize, seeded
from variants import variants


@cache
def sound(name: str = "cnn") -> ModelUnderTest:
    return SOUND[name](0)


def wrapped(change: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor], name: str = "cnn") -> ModelUnderTest:
    """A sound model whose logits are `change(net, x)`."""
    net = sound(name).net
    return replace(sound(name), logits=lambda x: change(net, x))


class Turned(torch.autograd.Function):
    """The identity, with the gradient of every pixel turned around that is not at one of digits' seventeen levels."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where((16 * x - (16 * x).round()).abs() < 0.1, grad, -grad)


def remembering(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Far from every image that it remembers, it answers as at the next of them."""
    known = sound().x
    apart = torch.cdist(x.detach().flatten(1), known.flatten(1), p=torch.inf)
    far = (apart.amin(1) > 0.15)[:, None]
    return torch.where(far, net(known[apart.argmin(1)]), net(x))


def in_train_mode() -> ModelUnderTest:
    net = deepcopy(sound("resnet").net).train()
    return replace(sound("resnet"), logits=net, net=net)


def through_clean(change: Callable[[nn.Module], object]) -> ModelUnderTest:
    """The clean route of a network with two, after a change of each of its batch norms."""
    net = deepcopy(sound("two routes").net)
    for norm in [part for part in net.modules() if isinstance(part, RoutedBatchNorm)]:
        change(norm.routes["clean"])
    return replace(sound("two routes"), net=net).through_route("clean")


def shifted(by: nn.Module, name: str = "cnn") -> ModelUnderTest:
    return replace(wrapped(lambda net, x: net(by(x)), name), net=nn.Sequential(by, sound(name).net))


def noisy(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return net(x + 0.05 * torch.randn(x.shape, generator=noisy.rng))


noisy.rng = torch.Generator().manual_seed(0)
MASKED = {"steps", "larger eps", "huge eps", "black box"}
"""What gradients that mislead imply: any of these, for all of them compare what attacks by gradients achieve."""
HALF = Normalize((0.5,), (0.5,))

FAULTS: dict[str, tuple[Callable[[], ModelUnderTest], str, set[str]]] = {
    "pixels of 0 to 255": (lambda: replace(sound(), x=255 * sound().x), "pixels", set()),
    "normalised pixels": (lambda: replace(sound(), x=HALF(sound().x)), "pixels", set()),
    "pixels divided twice": (lambda: replace(sound(), x=sound().x / 255), "pixels", set()),
    "pixels beyond": (lambda: replace(sound(), x=1.01 * sound().x), "pixels", set()),
    "no number": (lambda: wrapped(lambda net, x: net(x) / 0), "logits", set()),
    "one class no number": (lambda: wrapped(lambda net, x: net(x) - 1 / (1 - torch.eye(10)[3])), "logits", set()),
    "probabilities": (lambda: wrapped(lambda net, x: net(x).softmax(1)), "logits", set()),
    "sigmoids": (lambda: wrapped(lambda net, x: net(x).sigmoid()), "logits", set()),
    "one output": (lambda: wrapped(lambda net, x: net(x)[:, :1]), "logits", set()),
    "train mode": (in_train_mode, "mode", set()),
    "train mode, unseen": (lambda: replace(in_train_mode(), net=None), "batch", set()),
    "batch": (lambda: wrapped(lambda net, x: net(x) - net(x).mean(0)), "batch", set()),
    "order": (lambda: wrapped(lambda net, x: net(x) + torch.arange(len(x))[:, None] % 2 * net(x[:1])), "batch", set()),
    "randomness": (lambda: wrapped(noisy), "randomness", set()),
    "ε/255": (lambda: replace(sound(), ball=Linf(8 / 255 / 255)), "eps", set()),
    "ε/255, l2": (lambda: replace(sound(), ball=L2(0.5 / 255)), "eps", set()),
    "ε of another scale": (lambda: replace(sound(), ball=L2(8.0)), "eps", set()),
    "ε/std": (lambda: of(lambda: cnn(std=0.23), Linf(8 / 255 / 0.23))(0), "eps", set()),
    "labels": (lambda: replace(sound(), y=sound().y.roll(1)), "accuracy", set()),
    "double normalisation": (lambda: shifted(HALF), "normalisation", {"accuracy"}),
    "missing normalisation": (lambda: wrapped(lambda net, x: net[1:](x)), "normalisation", {"accuracy"}),
    "missing scale": (lambda: wrapped(lambda net, x: net(x / 255)), "normalisation", {"accuracy"}),
    "stale route": (lambda: through_clean(lambda norm: norm.reset_running_stats()), "routes", set()),
    "spoiled route": (lambda: through_clean(lambda norm: norm.running_mean.add_(3)), "routes", set()),
    "rounding": (lambda: wrapped(lambda net, x: net((16 * x).round() / 16)), "gradient", MASKED),
    "detached": (lambda: wrapped(lambda net, x: net(x.detach())), "gradient", MASKED),
    "huge logits": (lambda: wrapped(lambda net, x: 1e4 * net(x)), "gradient", MASKED),
    "large logits": (lambda: wrapped(lambda net, x: 8 * net(x)), "gradient", MASKED),
    "exploding": (lambda: wrapped(lambda net, x: net(x) + 0 * (x - x.detach()).sqrt().sum()), "gradient", MASKED),
    "turned gradients": (lambda: wrapped(lambda net, x: net(Turned.apply(x))), "steps", MASKED),
    "a memory": (lambda: wrapped(remembering), "larger eps", MASKED),
    "a memory, huge": (lambda: wrapped(remembering), "huge eps", MASKED),
    "shattered": (lambda: wrapped(lambda net, x: net(x + 1e-3 * (1e5 * x).sin())), "black box", MASKED),
}  # fmt: skip
"""The model, the check that must find it, and what else it implies."""


@cache
def findings(fault: str) -> tuple:
    return all_checks(FAULTS[fault][0]())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    _, check, implied = FAULTS[fault]
    found = {finding.check for finding in findings(fault)}
    assert check in found
    assert found <= {check} | implied


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("pixels of 0 to 255", "in [0, 255], on the scale of 0 to 255"),
        ("normalised pixels", "in [-1, 1] and not in [0, 1]"),
        ("pixels divided twice", "divided by 255 twice"),
        ("probabilities", "sum to 1"),
        ("sigmoids", "as a sigmoid's do"),
        ("one output", "the shape 192x1"),
        ("train mode", "6 layers (BatchNorm2d) are in train mode, and a forward pass changed 18 of the buffers"),
        ("train mode, unseen", "differ for 8 of 8 images when each is alone in its batch, and for 0 of 64"),
        ("order", "differ for 4 of 8 images when each is alone in its batch, and for 48 of 64"),
        ("randomness", "passes differ for 32 of 32 images"),
        ("ε/255", "0.031 of 255 grey levels a pixel"),
        ("ε/std", "8/255 divided by a standard deviation of 0.23"),
        ("double normalisation", "but 184 when a normalisation (mean 0.5, std 0.5) is undone before"),
        ("missing normalisation", "but 184 when they are normalised once more (mean 0.5, std 0.5)"),
        ("missing scale", "multiplied by 255"),
        ("spoiled route", "that the route 'adv' classifies correctly"),
        ("rounding", "exactly 0 for 184 of 184 correctly"),
        ("exploding", "not finite for 184 of 184 correctly"),
        ("large logits", "is rounding for "),
    ],
)
def test_what_a_finding_says(fault, words):
    check = FAULTS[fault][1]
    (says,) = [finding.says for finding in findings(fault) if finding.check == check]
    assert words in says


@pytest.mark.parametrize(
    "name", variants(SOUND, ("linear", "mlp, overfitted", "mlp, robust, l2", "cnn, robust", "resnet"))
)
def test_a_sound_classifier_raises_no_alarm(name):
    model = sound(name)
    assert all_checks(model) == ()
    assert quick_checks(model.first(64)) == ()


def test_what_is_left_out_after_a_fault_in_the_bases():
    """A verdict that depends on chance or company is none, so that nothing is made of it."""
    checked = {each.name: each for each in run_checks(in_train_mode(), attacked=48)}
    assert len(checked) == 15
    assert checked["mode"].finding
    assert {name for name, each in checked.items() if not each.left_out} == {"pixels", "logits", "mode"}


def test_a_network_is_left_as_it_was():
    model = in_train_mode()
    before = deepcopy(model.net.state_dict())
    all_checks(model)
    assert model.net.training
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert all(parameter.grad is None for parameter in model.net.parameters())


def test_findings_depend_on_the_key_alone():
    torch.manual_seed(0)
    first = all_checks(FAULTS["turned gradients"][0]())
    torch.manual_seed(1)
    assert all_checks(FAULTS["turned gradients"][0]()) == first


def counted(model: ModelUnderTest) -> tuple[ModelUnderTest, dict[str, int]]:
    """The same, and how many images have passed forward, and how many of those with a gradient."""
    passed = {"forward": 0, "with a gradient": 0}

    def logits(x: Tensor) -> Tensor:
        passed["forward"] += len(x)
        passed["with a gradient"] += len(x) * x.requires_grad
        return model.logits(x)

    return replace(model, logits=logits), passed


def test_the_price():
    """In passes, on which a machine that is busy has no effect. Where nothing falls, an attack is as long as can be."""
    model, passed = counted(FAULTS["detached"][0]())
    all_checks(model)
    assert passed["forward"] < 10_500
    assert passed["with a gradient"] < 3_500
    model, passed = counted(sound())
    quick_checks(model.first(64))
    assert passed["forward"] <= 12 * 64
    assert passed["with a gradient"] <= 2 * 64


def test_weak_but_honest():
    """Four in ten images of ten classes, and 64 of them: better than guessing, and that is enough."""
    model = sound().first(64)
    spoiled = torch.arange(64) % 5 < 3
    assert not sanity_checks.accuracy(replace(model, y=torch.where(spoiled, model.y.roll(1), model.y)))
    assert sanity_checks.accuracy(replace(model, y=model.y.roll(1)))


def test_one_class_tells_nothing_about_a_network_that_always_answers_so():
    model = sound()
    one = model.subset(model.y == 3)
    assert sanity_checks.accuracy(one) is None
    assert sanity_checks.accuracy(replace(one, logits=lambda x: torch.eye(10)[3].expand(len(x), 10))) is None
    assert sanity_checks.accuracy(replace(one, y=one.y + 1))  # always wrong


def test_masked_classes_are_no_finding():
    """Logits of minus infinity for classes that no image has."""
    model = sound()
    wide = replace(model, logits=lambda x: torch.cat([model.logits(x), torch.full((len(x), 2), -torch.inf)], 1))
    for check in (sanity_checks.logits, repeat_checks.randomness, repeat_checks.batch, sanity_checks.accuracy):
        assert check(wide) is None
    assert int(wide.is_correct.sum()) == int(model.is_correct.sum()) > 0


def test_a_network_that_is_no_better_than_the_constant_answer():
    """Of 80 images 60 are of one class: 45 right answers are better than guessing, and worse than naming that class."""
    y = torch.tensor([0] * 60 + [1] * 20)
    said = y.clone()
    said[:35] = 1
    model = replace(sound(), x=sound().x[:80], y=y)
    model = replace(model, logits=lambda x: torch.eye(10)[said[: len(x)]] if len(x) == 80 else None)
    model.__dict__["clean"] = torch.eye(10)[said]
    found = no_better(model)
    assert "45 of 80 images are classified correctly, and always answering class 0 is correct on 60" in found.says
    model.__dict__["clean"] = torch.eye(10)[y]
    model.__dict__.pop("is_correct")
    assert no_better(model) is None


def test_an_untrained_network_guesses():
    """It is not sound: nothing can be said of its robustness, and that is what is said."""
    found = all_checks(model_of(seeded(mlp, Key(0)).eval()))
    assert {finding.check for finding in found} == {"accuracy"}


def test_a_route_that_guesses_is_no_reproach_to_another():
    """It has a few right answers that the route in use lacks; by chance."""
    model = sound("two routes")
    net = deepcopy(model.net)
    net.head.requires_grad_(False)
    for norm in [part for part in net.modules() if isinstance(part, RoutedBatchNorm)]:
        norm.routes["clean"].weight.data.zero_()
        norm.routes["clean"].bias.data.zero_()
    adv = replace(model, net=net, logits=lambda x: net(x, "adv"))
    constant = adv.through_route("clean").is_correct
    worse = replace(adv, logits=lambda x: net(x, "adv").index_fill(1, adv.y[constant][:1], -9.0))
    assert constant.any()
    assert not (constant & worse.is_correct).any()
    assert repeat_checks.routes(worse) is None


@pytest.mark.parametrize("eps", [8 / 255, 4 / 255, 0.031, 0.1, 0.3 / 2, 1 / 255, 0.062, 16 / 255])
def test_usual_sizes_of_a_ball_are_no_finding(eps):
    assert sanity_checks.eps(replace(sound(), ball=Linf(eps))) is None


def test_a_round_number_was_not_divided():
    """0.035 is 1.9992/255 divided by 0.224, but it is 0.035."""
    assert sanity_checks.eps(replace(sound(), net=Normalize((0.5,), (0.224,)), ball=Linf(0.035))) is None


@pytest.mark.parametrize("eps", [0.5, 128 / 255, 0.25])
def test_usual_sizes_of_a_ball_are_no_finding_in_l2(eps):
    assert sanity_checks.eps(replace(sound(), ball=L2(eps))) is None


@pytest.mark.parametrize(("ball", "apart"), [(Linf, 0.3), (L2, 0.3 * 8)])
def test_balls_meet_at_half_the_distance(ball, apart):
    """Two greys, a class each, 0.3 apart in each of 64 pixels; a third far away; an image that has two labels."""
    y = torch.tensor([0, 1] * 10 + [2] * 99 + [1])
    x = torch.tensor([0.2, 0.5, 0.9])[y.index_fill(0, torch.tensor(119), 0)].view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    both = replace(sound(), x=x, y=y)
    assert sanity_checks.eps(replace(both, ball=ball(0.49 * apart))) is None
    assert (
        "20 of 120 images have an image of another class within 2ε"
        in sanity_checks.eps(replace(both, ball=ball(0.51 * apart))).says
    )


def test_rounding_pixels_is_forgiven():
    model = sound()
    assert sanity_checks.pixels(replace(model, x=model.x + 3e-8)) is None
    assert sanity_checks.pixels(replace(model, x=model.x * 0 + 0.5)) is None


def test_an_attack_without_gradients_that_does_better():
    """Of 48 survivors seven are too many; two are within what PGD-20 misses of sound networks."""
    assert outdone(2, 48) is None
    assert outdone(7, 48).check == "black box"
    assert "48" in outdone(7, 48).says


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        quick_checks(sound().first(0))


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_statistics_that_have_moved_in_part_are_not_stale(statistic):
    """Images around mid grey may leave the means where they were."""
    net = deepcopy(sound().net)
    for norm in [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]:
        getattr(norm, statistic).fill_(float(statistic == "running_var"))
    assert repeat_checks.routes(replace(sound(), net=net, logits=net)) is None


def between(x: Tensor) -> Tensor:
    """How far pixels are from the next of 255 levels: 0 at images, not where attacks begin."""
    return torch.where((x > 0) & (x < 1), x - (255 * x).round() / 255, 1.0)


def test_a_gradient_that_is_not_finite_at_the_images_alone():
    model = wrapped(lambda net, x: net(x) + 0 * between(x).abs().sqrt().sum())
    assert "not finite" in gradients.gradient(model).says


def test_a_gradient_that_vanishes_at_the_images_alone_is_none_that_stops_an_attack():
    def logits(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return net(torch.where(between(x).flatten(1).eq(0).any(1).view(-1, 1, 1, 1), x.detach(), x))

    assert gradients.gradient(wrapped(logits)) is None


def test_some_sure_answers_are_no_finding():
    """A third or so of the gradients are rounding, as those of an overfitted network may be."""
    model = wrapped(lambda net, x: 4 * net(x))
    z = model.clean[model.is_correct].topk(2).values
    sure = int((z[:, 0] - z[:, 1] > 17).sum())
    assert 0.1 < sure / len(z) < 0.4
    assert gradients.gradient(model) is None


def test_what_stands_at_a_huge_eps_is_attacked_again():
    """Gradients are withheld from the first ten steps."""
    asked = []

    def logits(x: Tensor) -> Tensor:
        asked.append(x.requires_grad)
        return sound().net(x.detach() if sum(asked) <= 10 else x)

    assert not AttackProbe(replace(sound(), logits=logits).first(48)).huge.any()


def test_what_always_answers_alike_stands_a_huge_eps_by_right():
    probe = AttackProbe(replace(sound(), logits=lambda x: torch.eye(10)[3].expand(len(x), 10)))
    assert probe.huge.all()
    assert huge_eps(probe) is None
