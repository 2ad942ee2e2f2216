"""Checks that run attacks: stronger attacks have to break more images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import L1, Ball
from unshaken.attacks.base import Model
from unshaken.attacks.pgd import PGD
from unshaken.attacks.square import Square
from unshaken.base.types import Bool
from unshaken.diagnostics.subject import CHUNK, Finding, ModelUnderTest, exceeds_share, is_better

STEPS = 20
"""Steps of the attack that is checked: PGD-20 on cross-entropy."""
QUERIES = 100
"""Queries of Square for each image: far fewer than it needs to be strong, and enough where gradients mislead."""
WIDER = 4
"""The larger ε is this multiple of ε."""


@dataclass(frozen=True, eq=False)
class AttackProbe:
    """Attacks on the correctly classified images. Each runs once, when its result is first needed."""

    model: ModelUnderTest

    @cached_property
    def attackable(self) -> ModelUnderTest:
        """The model with the images that it classifies correctly."""
        return self.model.subset(self.model.is_correct)

    @cached_property
    def usual(self) -> Bool[Tensor, "n"]:
        """The images that survive PGD-20 at ε."""
        return self._survivors(PGD(self.model.ball, STEPS), "usual")

    @cached_property
    def one_step(self) -> Bool[Tensor, "n"]:
        """The images that survive a single step of length ε, from a start next to the image."""
        return self._survivors(PGD(self.model.ball, 1, rel_step_size=1.0, init="gaussian"), "one step")

    @cached_property
    def wider(self) -> Bool[Tensor, "n"]:
        """The images that survive ten steps at four times ε."""
        return self._survivors(PGD(self.larger, STEPS // 2), "wider")

    @cached_property
    def huge(self) -> Bool[Tensor, "n"]:
        """The images that survive ten steps, and then twenty more, at an ε that allows plain grey."""
        survivors = self._survivors(PGD(self.all_grey, 10), "huge")
        if survivors.any():
            index = survivors.nonzero()[:, 0]
            rest = AttackProbe(self.attackable.subset(index))
            survivors[index] = rest._survivors(PGD(self.all_grey, 20), "huge again")
        return survivors

    @property
    def all_grey(self) -> Ball:
        """A ball around each image that holds the plain grey image."""
        pixels = prod(self.model.x.shape[1:])
        return replace(self.model.ball, eps=0.5 * pixels ** (1 / self.model.ball.power))

    @property
    def larger(self) -> Ball:
        """A ball of four times ε, but not larger than the one that holds plain grey."""
        return replace(self.model.ball, eps=min(WIDER * self.model.ball.eps, self.all_grey.eps))

    def _survivors(self, attack: PGD, name: str) -> Bool[Tensor, "n"]:
        survivors = []
        for at in range(0, len(self.attackable.x), CHUNK):
            chunk = self.attackable.subset(slice(at, at + CHUNK))
            rng = (chunk.key / name / at).on(chunk.x.device)
            survivors.append(chunk.correct_on(attack.maximise(lambda x, chunk=chunk: _loss(chunk, x), chunk.x, rng)))
        return torch.cat(survivors) if survivors else torch.zeros(0, dtype=torch.bool)


def _loss(model: ModelUnderTest, x: Tensor) -> Tensor:
    # if the network detaches its input, the gradient is then zero and not an error
    return cross_entropy(model.logits(x), model.y, reduction="sum") + 0 * x.sum()


def steps(probe: AttackProbe) -> Finding | None:
    """Report if twenty steps break fewer images than one step."""
    once, often = probe.one_step, probe.usual
    if not is_better(int((often & ~once).sum()), int((once & ~often).sum())):
        return None
    says = f"{int(once.sum())} of {len(once)} images survive one step, and {int(often.sum())} survive {STEPS} steps."
    return Finding("steps", says, "certain", MASKED)


def larger_eps(probe: AttackProbe) -> Finding | None:
    """Report if more images survive at a larger ε than at ε."""
    near, far = probe.usual, probe.wider
    if probe.larger.eps <= probe.model.ball.eps or not is_better(int((far & ~near).sum()), int((near & ~far).sum())):
        return None
    says = (
        f"At ε = {probe.model.ball.eps:.3g} {int(near.sum())} of {len(near)} images survive the attack, and at "
        f"{probe.larger.eps:.3g}, which allows more, {int(far.sum())} do."
    )
    return Finding("larger eps", says, "certain", MASKED)


def huge_eps(probe: AttackProbe) -> Finding | None:
    """Report if images survive although plain grey is in the ball and misclassified: the attack missed it."""
    survivors, model = probe.huge, probe.attackable
    if not len(survivors):
        return None
    grey = model.correct_on(torch.full_like(model.x, 0.5))
    missed, n = int((survivors & ~grey).sum()), len(survivors)
    if not exceeds_share(missed, n):
        return None
    says = (
        f"At ε = {probe.all_grey.eps:.3g} {int(survivors.sum())} of {n} images survive the attack, though the ball "
        f"holds plain grey, which is misclassified for {missed} of them."
    )
    return Finding("huge eps", says, "certain", MASKED)


def black_box(probe: AttackProbe) -> Finding | None:
    """Report if images that survive PGD-20 are broken by a short search without gradients."""
    survivors = probe.attackable.subset(probe.usual)
    n = len(survivors.x)
    if not n or isinstance(survivors.ball, L1):  # Square has no l1 form
        return None
    square = Square(survivors.ball, queries=QUERIES)
    x_adv = square(Model(survivors.logits), survivors.x, survivors.y, survivors.key / "square")
    return outdone(int((~survivors.correct_on(x_adv)).sum()), n)


def outdone(broken: int, survivors: int) -> Finding | None:
    """Report if many survivors of gradient attacks are broken by Square, which is the weaker attack."""
    if not exceeds_share(broken, survivors):
        return None
    says = (
        f"Of {survivors} images that survive a gradient attack, {broken} are broken by one without gradients (Square)."
    )
    return Finding("black box", says, "certain", MASKED)


MASKED = (
    "The gradients mislead the attack, so the accuracy under it is too high: look for rounding, saturation or detached "
    "parts in the network, and report AutoAttack, with more steps or restarts if its last attack breaks many."
)
