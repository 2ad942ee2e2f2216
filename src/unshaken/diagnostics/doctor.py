"""The doctor: signs that the attack or the set-up failed and not the defence; all checks in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from unshaken.diagnostics import attack_checks as trials
from unshaken.diagnostics import normalisation_checks as normalised
from unshaken.diagnostics import repeat_checks as repeats
from unshaken.diagnostics import sanity_checks as signs
from unshaken.diagnostics.attack_checks import AttackProbe
from unshaken.diagnostics.constant_answer import no_better
from unshaken.diagnostics.gradient_checks import gradient
from unshaken.diagnostics.subject import Finding, ModelUnderTest

Check = Callable[[ModelUnderTest], Finding | None]

BASES: dict[str, Check] = {
    "pixels": signs.pixels,
    "logits": signs.logits,
    "mode": repeats.mode,
    "randomness": repeats.randomness,
    "batch": repeats.batch,
    "routes": repeats.routes,
}
"""Without these, no verdict on an image means anything, and the checks after them would only repeat it."""
SIGNS: dict[str, Check] = {
    "eps": signs.eps,
    "accuracy": signs.accuracy,
    "constant": no_better,
    "normalisation": normalised.normalisation,
    "gradient": gradient,
}
TRIALS: dict[str, Callable[[AttackProbe], Finding | None]] = {
    "steps": trials.steps,
    "larger eps": trials.larger_eps,
    "huge eps": trials.huge_eps,
    "black box": trials.black_box,
}


@dataclass(frozen=True)
class Checked:
    """A check that was made, or left out because of what was found before."""

    name: str
    finding: Finding | None = None
    left_out: bool = False


def cheap(patient: ModelUnderTest) -> tuple[Finding, ...]:
    """Without an attack: as much as some fifteen forward passes of each image, of which 64 are enough."""
    return tuple(each.finding for each in run_checks(patient, attacked=0) if each.finding)


def thorough(patient: ModelUnderTest, attacked: int = 48) -> tuple[Finding, ...]:
    """With attacks on the first so many images: of 192 images of 32 pixels and a ResNet-18 less than two minutes."""
    return tuple(each.finding for each in run_checks(patient, attacked) if each.finding)


def run_checks(patient: ModelUnderTest, attacked: int) -> Iterator[Checked]:
    """Each check when it is done. The network's buffers are left as they were."""
    if not len(patient.x):
        raise ValueError("there are no images to examine a classifier with")
    trial = AttackProbe(patient.first(attacked)) if attacked else None
    with _kept(patient.net):
        bad = False
        for name, check in BASES.items():
            yield (each := Checked(name, left_out=True) if bad else Checked(name, check(patient)))
            bad = bad or each.finding is not None
        for name, check in SIGNS.items():
            yield Checked(name, left_out=True) if bad else Checked(name, check(patient))
        for name, check in TRIALS.items() if trial else ():
            yield Checked(name, left_out=True) if bad else Checked(name, check(trial))  # pyright: ignore[reportArgumentType]


@contextmanager
def _kept(net: nn.Module | None) -> Iterator[None]:
    """A network in train mode learns statistics whenever it is asked."""
    buffers = [] if net is None else list(net.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
