"""AutoLoRa: clean images train a low-rank branch, adversarial images train the weights.

Xu et al., "AutoLoRa: An Automated Robust Fine-Tuning Framework", ICLR 2024, arXiv:2310.01818. The learning rate and
the λ of the loss follow from accuracies measured during training. The authors' code
(GodXuxilie/RobustSSL_Benchmark, Finetuning_Methods/AutoLoRa at 19dc714) passes the branch through the blocks by hand.
In networks with the 7×7 stem the branch is lost after the first block of a stage; with two routes the shortcut of
sample 0 is added to all other samples; and ResNet-50 fails. Here the branch belongs to a layer, and is the same in
every network.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import Count, Natural, NonNegative, Number, Positive, Range, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, Bool, Float, Int, LossTerms
from unshaken.losses.divergence import kl_rows
from unshaken.methods.base import Method, run_attack
from unshaken.methods.released import autolora as released
from unshaken.nets.lora import branch
from unshaken.nets.network import Encoder, Network, evaluating


@dataclass(frozen=True)
@ranged
class AutoLoRa(Method):
    """min λ₁ CE(c(f_{W+ΔW}(x)), y) + (1 − λ₁) CE(c(f_W(x̃)), y) + λ₂ KL(c(f_{W+ΔW}(x)) ‖ c(f_W(x̃))).

    f is the encoder with weights W, c the classifier, and ΔW the low-rank branch. λ₁ = 1 − SA and λ₂ = scale · SA. SA,
    in `h.memory`, is the accuracy of W + ΔW on augmented training images. x̃ = argmax over B_ε[x] of CE(c(f_W(x̃)), y).
    Clean images train ΔW and c, adversarial images train everything except ΔW, and the KL trains all of them. Clean
    images update the running statistics of their route, but not the γ and β of its batch norms.
    """

    attack: PGD = PGD(steps=10, init="gaussian")
    scale: NonNegative = 6.0
    """λ₂ = scale · SA."""
    rank: Count = 8
    """r, the rank of the branch."""
    alpha: Number = 1.0
    """α: ΔW = (α / r) · B A."""
    natural: Literal["adv", "clean"] = "adv"
    """Route of clean images. adv: the route of the adversarial images, as published. clean: their own route."""
    measured: Literal["natural", "released"] = "natural"
    """Which weights SA is measured on. natural: W + ΔW. released: W alone if there is one route for all images
    (methods/released/autolora.py)."""

    views: ClassVar = 1
    labels: ClassVar = "true"
    memory: ClassVar = ("accuracy",)

    def __post_init__(self) -> None:
        if self.rank < 1 or not (isfinite(self.scale) and self.scale >= 0 and isfinite(self.alpha)):
            raise ValueError(
                f"AutoLoRa has a rank ≥ 1, a scale ≥ 0 and a finite alpha, "
                f"not {self.rank}, {self.scale:g} and {self.alpha:g}"
            )

    @property
    def routes(self) -> tuple[str, ...]:
        return ("clean", "adv") if self.natural == "clean" else ("adv",)

    def weights(self, accuracy: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return λ₁ and λ₂ from SA in [0, 1]."""
        return 1 - accuracy, self.scale * accuracy

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,), y = batch.views, batch.label

        def attack_loss(x_adv: Tensor) -> Tensor:
            return cross_entropy(h(x_adv, "adv"), y, reduction="none")  # pyright: ignore[reportArgumentType]

        x_adv = run_attack(self.attack, h, attack_loss, x, key)
        with branch(h.encoder):
            clean = h(x, self.natural)
        adv = h(x_adv, "adv")
        # a copy, because the accuracy may be measured again before l1 and l2 are logged
        l1, l2 = self.weights(h.memory.accuracy.clone())  # pyright: ignore[reportCallIssue]
        natural, robust, divergence = cross_entropy(clean, y), cross_entropy(adv, y), kl_rows(clean, adv).mean()  # pyright: ignore[reportArgumentType]
        loss = l1 * natural + (1 - l1) * robust + l2 * divergence
        return {"loss": loss, "natural": natural, "robust": robust, "divergence": divergence, "l1": l1, "l2": l2}

    @torch.no_grad()
    def correct(self, h: Network, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
        """Return which clean images are classified correctly, in eval mode; SA is their share."""
        with evaluating(h), MEASURED[self.measured](h.encoder, self.natural):
            return h(x, self.natural).argmax(-1) == y


MEASURED: dict[str, Callable[[Encoder, str], AbstractContextManager[None]]] = {
    "natural": lambda encoder, route: branch(encoder),
    "released": released.measured,
}
"""Functions of the encoder and the clean images' route that return the context in which SA is measured."""


FULL = (0, 16, 24, 28, 36, 40, 42, 44, 46, 48, 50)
"""The epochs wⱼ at which `AutoRate` decides, in full fine-tuning of 50 epochs."""


@dataclass(frozen=True)
@ranged
class AutoRate:
    """The learning rate η, which is halved when the robust accuracy on validation images stops rising.

    aᵢ is that accuracy after epoch i. The rule is that of Auto-PGD's step size (Croce & Hein, ICML 2020,
    arXiv:2003.01690). At each epoch wⱼ of `at`, η is divided, and training goes on from the best weights, if
      1.  #{ i in wⱼ₋₁ .. wⱼ − 1 : aᵢ₊₁ > aᵢ } < ρ (wⱼ − wⱼ₋₁),   or
      2.  η was not divided at wⱼ₋₁, and max a has not risen since.
    Epochs are counted from 0, so the decision at wⱼ falls once wⱼ + 1 epochs are done.
    """

    start: Positive = 0.1
    """η, the learning rate, before the first decision."""
    divide: Annotated[float, Range(1, open_low=True)] = 2.0
    """Divisor of the learning rate η: 2 halves it."""
    rho: NonNegative = 0.75
    """ρ, the share of the epochs between two decisions in which the robust accuracy has to rise."""
    at: tuple[Natural, ...] = FULL
    """Epochs at which η may be divided, in a training of `of` epochs; for another number of epochs they are scaled."""
    of: Count = 50
    """Number of epochs that `at` is written for."""
    unchanged: Literal["paper", "released"] = "paper"
    """When η is divided because the accuracy has not risen. paper: unless it was divided at the decision before.
    released: as the authors' code computes it (methods/released/autolora.py)."""

    def __post_init__(self) -> None:
        rising = self.at[:1] == (0,) and all(a < b for a, b in pairwise(self.at))
        if not (rising and self.of >= 1 and self.start > 0 and self.divide > 1):
            raise ValueError(
                f"an automatic rate has an `at` that rises from 0, a start > 0, a divide > 1 and an `of` ≥ 1, "
                f"not {self.at}, {self.start:g}, {self.divide:g} and {self.of}"
            )

    def checkpoints(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs of decisions in a training of this length: w · epochs / of, rounded half up."""
        return tuple(sorted({(2 * w * epochs + self.of) // (2 * self.of) for w in self.at}))

    def __call__(self, history: list[float], epochs: int) -> tuple[float, bool]:
        """Return η for the next epoch, and whether this epoch starts from the best weights. `history` is a₀, a₁, ..."""
        # replayed from the start, so that a resumed run needs no other state
        lr, halved, first = self.start, False, True
        for before, now in pairwise(self.checkpoints(epochs)):
            if now >= len(history):
                return lr, False
            rises = sum(b > a for a, b in pairwise(history[before : now + 1]))
            no_new_best = max(history[: now + 1]) == max(history[: before + 1])
            applies = CONDITION_2[self.unchanged](halved, first)
            halved, first = rises < self.rho * (now - before) or (applies and no_new_best), False
            lr = lr / self.divide if halved else lr
            if now == len(history) - 1:
                return lr, halved
        return lr, False


CONDITION_2: dict[str, Callable[[bool, bool], bool]] = {
    "paper": lambda halved, first: not halved,
    "released": released.may_halve,
}
"""Functions that say if condition 2 can apply.

Arguments: whether η was divided at the previous decision, and whether this is the first one.
"""
