"""The doctor's checks in their order: signs that the attack or the setup failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from unshaken.diagnostics import attack_checks, normalisation_checks, repeat_checks, sanity_checks
from unshaken.diagnostics.attack_checks import AttackProbe
from unshaken.diagnostics.constant_answer import no_better
from unshaken.diagnostics.gradient_checks import gradient
from unshaken.diagnostics.subject import Finding, ModelUnderTest

Check = Callable[[ModelUnderTest], Finding | None]

PREREQUISITES: dict[str, Check] = {
    "pixels": sanity_checks.pixels,
    "logits": sanity_checks.logits,
    "mode": repeat_checks.mode,
    "randomness": repeat_checks.randomness,
    "batch": repeat_checks.batch,
    "routes": repeat_checks.routes,
}
"""If one of these reports a finding, no verdict can be trusted, and later checks would only repeat it."""
SANITY_CHECKS: dict[str, Check] = {
    "eps": sanity_checks.eps,
    "accuracy": sanity_checks.accuracy,
    "constant": no_better,
    "normalisation": normalisation_checks.normalisation,
    "gradient": gradient,
}
ATTACK_CHECKS: dict[str, Callable[[AttackProbe], Finding | None]] = {
    "steps": attack_checks.steps,
    "larger eps": attack_checks.larger_eps,
    "huge eps": attack_checks.huge_eps,
    "black box": attack_checks.black_box,
}


@dataclass(frozen=True)
class Checked:
    """A check with its finding, or one that was left out because of an earlier finding."""

    name: str
    finding: Finding | None = None
    left_out: bool = False


def quick_checks(model: ModelUnderTest) -> tuple[Finding, ...]:
    """Run the checks without attacks. They cost about fifteen forward passes of each image; 64 images are enough."""
    return tuple(each.finding for each in run_checks(model, attacked=0) if each.finding)


def all_checks(model: ModelUnderTest, attacked: int = 48) -> tuple[Finding, ...]:
    """Run all checks, with attacks on the first `attacked` images.

    On 192 images of 32 pixels and a ResNet-18 it takes less than two minutes.
    """
    return tuple(each.finding for each in run_checks(model, attacked) if each.finding)


def run_checks(model: ModelUnderTest, attacked: int) -> Iterator[Checked]:
    """Yield each check when it is done. The network's buffers are restored."""
    if not len(model.x):
        raise ValueError("there are no images to check a classifier with")
    probe = AttackProbe(model.first(attacked)) if attacked else None
    with _buffers_restored(model.net):
        bad = False
        for name, check in PREREQUISITES.items():
            yield (each := Checked(name, left_out=True) if bad else Checked(name, check(model)))
            bad = bad or each.finding is not None
        for name, check in SANITY_CHECKS.items():
            yield Checked(name, left_out=True) if bad else Checked(name, check(model))
        for name, check in ATTACK_CHECKS.items() if probe else ():
            yield Checked(name, left_out=True) if bad else Checked(name, check(probe))  # pyright: ignore[reportArgumentType]


@contextmanager
def _buffers_restored(net: nn.Module | None) -> Iterator[None]:
    """Restore a network's buffers: in train mode every forward pass changes its statistics."""
    buffers = [] if net is None else list(net.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
