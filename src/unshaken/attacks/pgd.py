"""PGD: projected gradient ascent of any loss by the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from torch import Tensor

from unshaken.attacks.ball import AnyBall, Linf
from unshaken.attacks.base import Attack, Loss, Model, loss_of
from unshaken.base.ranges import Count, Natural, Positive, ranged
from unshaken.base.rng import Key
from unshaken.base.shared_batch import drawn, shared_rows
from unshaken.base.types import Float, Int


@dataclass(frozen=True)
@ranged
class PGD(Attack):
    """x ← Π(x + ρ · direction(∇ₓ loss)), from a random start (Madry et al., ICLR 2018, arXiv:1706.06083)."""

    ball: AnyBall = Linf(8 / 255)
    """The perturbations that the attack may make. Another ball has its own options."""
    steps: Natural = 5
    """Number of gradient steps."""
    rel_step_size: Positive = 0.25
    """Step size as a fraction of eps: 1/4 of 8/255 is the usual 2/255."""
    init: Literal["uniform", "gaussian"] = "uniform"
    """Start of the attack: uniform in the ball; or gaussian, x + 0.001·N(0, 1), as in TRADES."""
    restarts: Count = 1
    """Number of random starts. The attack returns the start with the highest loss: for each image if the loss has one
    value per image, otherwise for the batch."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1 or not 0 < self.rel_step_size < inf:
            raise ValueError(
                f"an attack has steps ≥ 0, restarts ≥ 1 and a rel_step_size > 0, "
                f"not {self.steps}, {self.restarts} and {self.rel_step_size:g}"
            )

    def __call__(
        self, model: Model | Loss, x: Float[Tensor, "... C H W"], y: Int[Tensor, "N"] | None, key: Key
    ) -> Float[Tensor, "... C H W"]:
        """Return adversarial images: those that `maximise` finds for the loss of a classifier, or for any loss."""
        return self.maximise(loss_of(model, y), x, key.on(x.device))

    def maximise(self, loss: Loss, x: Float[Tensor, "... C H W"], rng: torch.Generator) -> Float[Tensor, "... C H W"]:
        """Return adversarial images in the ball around x. Only ∂loss/∂x is computed: no parameter gets a `.grad`.

        ValueError if there are restarts and the loss has neither one value nor one for each image.
        """
        x = x.detach()
        best = self._climb(loss, x, rng)
        for _ in range(self.restarts - 1):
            best = _higher(loss, best, self._climb(loss, x, rng))
        return best

    def _climb(self, loss: Loss, x: Tensor, rng: torch.Generator) -> Tensor:
        x_adv = self._start(x, rng)
        for _ in range(self.steps):
            grad = input_gradient(loss, x_adv)
            x_adv = self.ball.project(self.ball.ascend(x_adv, grad, self.rel_step_size * self.ball.eps), x)
        return x_adv

    def _start(self, x: Tensor, rng: torch.Generator) -> Tensor:
        if self.init == "uniform":
            return self.ball.sample(x, rng)
        return self.ball.project(x + 0.001 * drawn(x, -4, lambda to: to.normal_(generator=rng)), x)


def embedding_attack(
    attack: PGD,
    embed: Callable[[Float[Tensor, "N C H W"]], Float[Tensor, "N D"]],
    distance: Callable[[Float[Tensor, "N D"], Float[Tensor, "N D"]], Tensor],
    x: Float[Tensor, "N C H W"],
    z: Float[Tensor, "N D"],
    rng: torch.Generator,
) -> Float[Tensor, "N C H W"]:
    """Return x̃ = argmax over the ball of d(h(x̃), z): PGD without labels.

    With z = h(x) this is the representational distance. At x itself d is smallest and has no gradient, so the attack
    needs its random start.
    """
    return attack.maximise(lambda x: distance(embed(x), z), x, rng)


def input_gradient(loss: Loss, x: Tensor) -> Tensor:
    """Return ∂(Σ loss)/∂x. No gradient of a parameter is computed."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(x).sum(), x)
    return grad


@torch.no_grad()
def _higher(loss: Loss, a: Tensor, b: Tensor) -> Tensor:
    better, rows = loss(b) > loss(a), shared_rows()
    if rows is not None and better.ndim:  # the loss is that of the whole batch, the images are own ones
        better = rows.own(better, -1)
    if better.shape not in ((), a.shape[:-3]):
        raise ValueError(
            f"restarts need a loss of one value, or of one for each image, {tuple(a.shape[:-3])}, "
            f"not {tuple(better.shape)}"
        )
    return torch.where(better if better.ndim == 0 else better[..., None, None, None], b, a)
