"""Attacks that show whether the attack works: more steps, a larger ε, a huge one, and one without gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod, sqrt

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.ball import Ball, Linf
from unshaken.attacks.base import Model
from unshaken.attacks.pgd import PGD
from unshaken.attacks.square import Square
from unshaken.base.types import Bool
from unshaken.diagnostics.subject import CHUNK, Finding, ModelUnderTest, significantly_many, significantly_more

STEPS = 20
"""Of the attack under examination: PGD-20 on cross-entropy."""
QUERIES = 100
"""Of each image to Square: far fewer than it needs to be strong, and enough where gradients mislead."""
WIDER = 4
"""Times ε is the larger ε."""


@dataclass(frozen=True, eq=False)
class AttackProbe:
    """Attacks on the images that are classified rightly; each is made once, when it is first asked for."""

    model: ModelUnderTest

    @cached_property
    def attackable(self) -> ModelUnderTest:
        return self.model.subset(self.model.is_correct)

    @cached_property
    def usual(self) -> Bool[Tensor, "n"]:
        """Which images stand PGD-20 at ε."""
        return self._stand(PGD(self.model.ball, STEPS), "usual")

    @cached_property
    def one_step(self) -> Bool[Tensor, "n"]:
        """The same of a single step of length ε, from next to the image."""
        return self._stand(PGD(self.model.ball, 1, rel_step_size=1.0, init="gaussian"), "one step")

    @cached_property
    def wider(self) -> Bool[Tensor, "n"]:
        """The same of ten steps at four times ε."""
        return self._stand(PGD(self.larger, STEPS // 2), "wider")

    @cached_property
    def huge(self) -> Bool[Tensor, "n"]:
        """The same at an ε within which plain grey lies: ten steps, and twenty more for those that stand."""
        standing = self._stand(PGD(self.all_grey, 10), "huge")
        if standing.any():
            at = standing.nonzero()[:, 0]
            standing[at] = AttackProbe(self.attackable.subset(at))._stand(PGD(self.all_grey, 20), "huge again")
        return standing

    @property
    def all_grey(self) -> Ball:
        pixels = prod(self.model.x.shape[1:])
        return replace(self.model.ball, eps=0.5 if isinstance(self.model.ball, Linf) else sqrt(pixels) / 2)

    @property
    def larger(self) -> Ball:
        return replace(self.model.ball, eps=min(WIDER * self.model.ball.eps, self.all_grey.eps))

    def _stand(self, attack: PGD, name: str) -> Bool[Tensor, "n"]:
        standing = []
        for at in range(0, len(self.attackable.x), CHUNK):
            part = self.attackable.subset(slice(at, at + CHUNK))
            rng = (part.key / name / at).on(part.x.device)
            standing.append(part.correct_on(attack(lambda x, part=part: _loss(part, x), part.x, rng)))
        return torch.cat(standing) if standing else torch.zeros(0, dtype=torch.bool)


def _loss(model: ModelUnderTest, x: Tensor) -> Tensor:
    # of a network that detaches its input the gradient is zero, not an error
    return cross_entropy(model.logits(x), model.y, reduction="sum") + 0 * x.sum()


def steps(probe: AttackProbe) -> Finding | None:
    """Twenty steps that leave more images standing than one."""
    once, often = probe.one_step, probe.usual
    if not significantly_more(int((often & ~once).sum()), int((once & ~often).sum())):
        return None
    says = f"One step leaves {int(once.sum())} of {len(once)} images standing, and {STEPS} steps {int(often.sum())}."
    return Finding("steps", says, "certain", MASKED)


def larger_eps(probe: AttackProbe) -> Finding | None:
    """A larger ε at which more images stand than at ε."""
    near, far = probe.usual, probe.wider
    if probe.larger.eps <= probe.model.ball.eps or not significantly_more(
        int((far & ~near).sum()), int((near & ~far).sum())
    ):
        return None
    says = (
        f"At ε = {probe.model.ball.eps:.3g} {int(near.sum())} of {len(near)} images stand the attack, and at "
        f"{probe.larger.eps:.3g}, which allows all that and more, {int(far.sum())}."
    )
    return Finding("larger eps", says, "certain", MASKED)


def huge_eps(probe: AttackProbe) -> Finding | None:
    """Images that stand where plain grey, which is within reach, is classified otherwise: the attack missed it."""
    standing, subject = probe.huge, probe.attackable
    if not len(standing):
        return None
    grey = subject.correct_on(torch.full_like(subject.x, 0.5))
    missed, n = int((standing & ~grey).sum()), len(standing)
    if not significantly_many(missed, n):
        return None
    says = (
        f"At ε = {probe.all_grey.eps:.3g} {int(standing.sum())} of {n} images stand the attack, though all can be made "
        f"plain grey, and that is a wrong answer for {missed} of them."
    )
    return Finding("huge eps", says, "certain", MASKED)


def black_box(probe: AttackProbe) -> Finding | None:
    """Images that stand PGD-20 and fall to a short search without gradients."""
    survivors = probe.attackable.subset(probe.usual)
    n = len(survivors.x)
    if not n:
        return None
    square = Square(survivors.ball, queries=QUERIES)
    x_adv = square(Model(survivors.logits), survivors.x, survivors.y, survivors.key / "square")
    return outdone(int((~survivors.correct_on(x_adv)).sum()), n)


def outdone(fell: int, survivors: int) -> Finding | None:
    """Of so many survivors of attacks by gradients, so many fell to one without (Square), which is the weaker one."""
    if not significantly_many(fell, survivors):
        return None
    says = f"Of {survivors} images that stand an attack by gradients, {fell} fall to one without (Square)."
    return Finding("black box", says, "certain", MASKED)


MASKED = (
    "The gradients mislead the attack, so the accuracy under it is too high: look for rounding, saturation or detached "
    "parts in the network, and report AutoAttack, with more steps or restarts if its last attack breaks many."
)
