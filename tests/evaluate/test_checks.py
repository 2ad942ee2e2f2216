"""Every planted fault is found under its name with no alarm but what it implies; sound classifiers raise none."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from tests.evaluate.sound import SOUND, cnn, of
from torch import Tensor, nn

from unshaken.evaluate.checks import cheap, thorough
from unshaken.evaluate.patient import Patient
from unshaken.nets.embed import Normalize
from unshaken.nets.routed import RoutedNorm
from unshaken.threat.ball import L2, Linf


@cache
def sound(name: str = "cnn") -> Patient:
    return SOUND[name](0)


def wrapped(change: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor], name: str = "cnn") -> Patient:
    """A sound patient whose logits are `change(net, x)`."""
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


def in_train_mode() -> Patient:
    net = deepcopy(sound("resnet").net).train()
    return replace(sound("resnet"), logits=net, net=net)


def through_clean(change: Callable[[nn.Module], object]) -> Patient:
    """The clean route of a network with two, after a change of each of its batch norms."""
    net = deepcopy(sound("two routes").net)
    for norm in [part for part in net.modules() if isinstance(part, RoutedNorm)]:
        change(norm.routes["clean"])
    return replace(sound("two routes"), net=net).over("clean")


def shifted(by: nn.Module, name: str = "cnn") -> Patient:
    return replace(wrapped(lambda net, x: net(by(x)), name), net=nn.Sequential(by, sound(name).net))


def noisy(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return net(x + 0.05 * torch.randn(x.shape, generator=noisy.rng))


noisy.rng = torch.Generator().manual_seed(0)
MASKED = {"steps", "larger eps", "huge eps", "black box"}
"""What gradients that mislead imply: any of these, for all of them compare what attacks by gradients achieve."""
HALF = Normalize((0.5,), (0.5,))

FAULTS: dict[str, tuple[Callable[[], Patient], str, set[str]]] = {
    "pixels of 0 to 255": (lambda: replace(sound(), x=255 * sound().x), "pixels", set()),
    "normalised pixels": (lambda: replace(sound(), x=HALF(sound().x)), "pixels", set()),
    "pixels divided twice": (lambda: replace(sound(), x=sound().x / 255), "pixels", set()),
    "pixels beyond": (lambda: replace(sound(), x=1.01 * sound().x), "pixels", set()),
    "no number": (lambda: wrapped(lambda net, x: net(x) / 0), "logits", set()),
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
"""The patient, the check that must find it, and what else it implies."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    plant, check, implied = FAULTS[fault]
    found = {finding.check for finding in thorough(plant())}
    assert check in found
    assert found <= {check} | implied


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_classifier_raises_no_alarm(name):
    patient = sound(name)
    assert thorough(patient) == ()
    assert cheap(patient.first(64)) == ()
