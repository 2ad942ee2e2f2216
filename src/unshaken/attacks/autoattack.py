"""AutoAttack: a fixed ensemble of attacks, each on the survivors of those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from unshaken.attacks.apgd import APGD
from unshaken.attacks.apgd_l1 import APGDL1
from unshaken.attacks.ball import L1, AnyBall, Linf, refuse_l1
from unshaken.attacks.base import Attack, Model, cascade
from unshaken.attacks.fab import FAB
from unshaken.attacks.square import Square
from unshaken.base.ranges import Count, Natural, ranged
from unshaken.base.rng import Key


@dataclass(frozen=True)
@ranged
class AutoAttack(Attack):
    """AutoAttack (Croce and Hein, ICML 2020, arXiv:2003.01690): an image is robust if it withstands every attack.

    With fewer than ten classes the targeted attacks aim at all wrong classes. DLR needs four logits; what replaces it
    with two or three classes is in `objective.py`.
    """

    ball: AnyBall = Linf(8 / 255)
    version: Literal["standard", "plus", "rand", "apgd"] = "standard"
    """standard: APGD-CE, APGD-T, FAB-T and Square. plus: also APGD-DLR and FAB, with 5 restarts
    of the untargeted attacks. rand: APGD-CE and APGD-DLR with gradients averaged over 20 draws, for randomised
    networks. apgd: only APGD-CE with 5 restarts and APGD-T, as is usual for zero-shot classifiers."""
    steps: Count = 100
    """Number of steps of APGD and FAB."""
    queries: Natural = 5000
    """Number of queries of Square for each image."""
    targets: Count = 9
    """The most wrong classes that APGD-T and FAB-T aim at, those with the largest logits."""

    def __post_init__(self) -> None:
        if self.version != "apgd":
            refuse_l1(self.ball, f"version {self.version} of AutoAttack")
        if self.targets < 1 or self.steps < 1 or self.queries < 0:
            values = f"{self.targets}, {self.steps} and {self.queries}"
            raise ValueError(f"AutoAttack has targets and steps ≥ 1 and queries ≥ 0, not {values}")

    @property
    def stages(self) -> tuple[tuple[str, Attack], ...]:
        """The attacks by name, in order; each attacks the images that withstood those before it."""
        ball, steps = self.ball, self.steps
        if self.version == "rand":
            return tuple((f"apgd-{loss}", APGD(ball, loss, 0, steps, draws=20)) for loss in ("ce", "dlr"))
        if isinstance(ball, L1):  # the authors' numbers of restarts and targets for l1
            apgd_ce, apgd_t = APGDL1(ball, "ce", 0, steps, restarts=5), APGDL1(ball, "dlr", min(self.targets, 5), steps)
            return ("apgd-ce", apgd_ce), ("apgd-t", apgd_t)
        apgd_t = ("apgd-t", APGD(ball, "dlr", self.targets, steps))
        if self.version == "apgd":
            return ("apgd-ce", APGD(ball, "ce", 0, steps, restarts=5)), apgd_t
        fab_t = ("fab-t", FAB(ball, self.targets, steps))
        square = ("square", Square(ball, self.queries))
        if self.version == "standard":
            return ("apgd-ce", APGD(ball, "ce", 0, steps)), apgd_t, fab_t, square
        apgd_ce, apgd_dlr = ((f"apgd-{loss}", APGD(ball, loss, 0, steps, restarts=5)) for loss in ("ce", "dlr"))
        # the order of the authors' code
        return apgd_ce, apgd_dlr, ("fab", FAB(ball, 0, steps, restarts=5)), square, apgd_t, fab_t

    def __call__(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        x = x.detach()
        # `at` are the indices of the survivors; the defaults bind the values of this turn of the loop
        attacks = (lambda at, n=name, a=attack: a(model, x[at], y[at], key / n) for name, attack in self.stages)
        return cascade(attacks, x)
