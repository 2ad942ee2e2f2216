"""AutoAttack: an ensemble of attacks without a parameter to choose, each on the survivors of the last"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from unshaken.attacks.apgd import APGD
from unshaken.attacks.ball import AnyBall, Linf
from unshaken.attacks.base import Attack, Model, cascade
from unshaken.attacks.fab import FAB
from unshaken.attacks.square import Square
from unshaken.base.ranges import Count, Natural, ranged
from unshaken.base.rng import Key


@dataclass(frozen=True)
@ranged
class AutoAttack(Attack):
    """An image is robust if it withstands every one (Croce and Hein, ICML 2020, arXiv:2003.01690).

    Of fewer than ten classes the targeted attacks take all wrong ones; DLR of two or three classes is that of
    `objective.py`.
    """

    ball: AnyBall = Linf(8 / 255)
    version: Literal["standard", "plus", "rand"] = "standard"
    """standard: APGD-CE, APGD-T, FAB-T, Square. plus: more restarts and the untargeted forms too. rand, for networks
    that are themselves random: APGD-CE and APGD-DLR, gradients averaged over 20 draws."""
    steps: Count = 100
    """Of APGD and FAB."""
    queries: Natural = 5000
    """Of Square."""
    targets: Count = 9
    """Wrong classes that APGD-T and FAB-T aim at."""

    def __post_init__(self) -> None:
        if self.targets < 1 or self.steps < 1 or self.queries < 0:
            asked = f"{self.targets}, {self.steps} and {self.queries}"
            raise ValueError(f"AutoAttack has targets and steps ≥ 1 and queries ≥ 0, not {asked}")

    @property
    def stages(self) -> tuple[tuple[str, Attack], ...]:
        """The attacks by name, in order; each is for the images that have withstood those before it."""
        ball, steps = self.ball, self.steps
        if self.version == "rand":
            return tuple((f"apgd-{loss}", APGD(ball, loss, 0, steps, draws=20)) for loss in ("ce", "dlr"))
        apgd_t = ("apgd-t", APGD(ball, "dlr", self.targets, steps))
        fab_t = ("fab-t", FAB(ball, self.targets, steps))
        square = ("square", Square(ball, self.queries))
        if self.version == "standard":
            return ("apgd-ce", APGD(ball, "ce", 0, steps)), apgd_t, fab_t, square
        apgd_ce, apgd_dlr = ((f"apgd-{loss}", APGD(ball, loss, 0, steps, restarts=5)) for loss in ("ce", "dlr"))
        return apgd_ce, apgd_dlr, ("fab", FAB(ball, 0, steps, restarts=5)), square, apgd_t, fab_t

    def __call__(self, model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
        x = x.detach()
        each = (lambda at, n=name, a=attack: a(model, x[at], y[at], key / n) for name, attack in self.stages)
        return cascade(each, x)
