"""AutoLoRa: natural images learn in a low-rank branch, adversarial ones in the weights; weights and rate are automatic.

Xu et al., "AutoLoRa: An Automated Robust Fine-Tuning Framework", ICLR 2024, arXiv:2310.01818, and as released
(GodXuxilie/RobustSSL_Benchmark, Finetuning_Methods/AutoLoRa at 19dc714). There the branch is threaded through the
blocks by hand, which loses it after the first block of a stage behind the 7×7 stem, adds sample 0's shortcut to all
others with two routes, and fails on ResNet-50; here it is a property of a layer, the same in every network.
"""

from __future__ import annotations

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
from unshaken.methods.base import Method
from unshaken.nets.lora import branch
from unshaken.nets.network import Network, evaluating, frozen


@dataclass(frozen=True)
@ranged
class AutoLoRa(Method):
    """min λ₁ CE(c(f_{W+ΔW}(x)), y) + (1 − λ₁) CE(c(f_W(x̃)), y) + λ₂ KL(c(f_{W+ΔW}(x)) ‖ c(f_W(x̃))).

    λ₁ = 1 − SA and λ₂ = scale · SA, where SA, in the network's memory, is the accuracy of the natural branch W + ΔW on
    augmented training images. x̃ = argmax over B_ε[x] of CE(c(f_W(x̃)), y). Natural images teach ΔW and c; adversarial
    ones all but ΔW; the gradient of the KL goes both ways. Of the norms, natural images move the running statistics
    of their route, and teach nothing.
    """

    attack: PGD = PGD(steps=10, init="gaussian")
    scale: NonNegative = 6.0
    """Of λ₂."""
    rank: Count = 8
    """r, of the branch."""
    alpha: Number = 1.0
    """α: ΔW = (α / r) · B A."""
    natural: Literal["adv", "clean"] = "adv"
    """The route of natural images: "adv", one for all, as published; "clean", one of their own."""
    measured: Literal["natural", "released"] = "natural"
    """Where SA is measured: on the natural branch; or, as released, on W if there is one route for all."""

    views: ClassVar = 1
    labels: ClassVar = "true"
    memory: ClassVar = ("accuracy",)

    def __post_init__(self) -> None:
        if self.rank < 1 or not (isfinite(self.scale) and self.scale >= 0 and isfinite(self.alpha)):
            raise ValueError(
                f"a branch has a rank ≥ 1, a scale ≥ 0 and a finite alpha, "
                f"not {self.rank}, {self.scale:g} and {self.alpha:g}"
            )

    @property
    def routes(self) -> tuple[str, ...]:
        return ("clean", "adv") if self.natural == "clean" else ("adv",)

    def weights(self, accuracy: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """λ₁ and λ₂, by SA in [0, 1]."""
        return 1 - accuracy, self.scale * accuracy

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        (x,), y = batch.views, batch.label
        with frozen(h):
            x_adv = self.attack(
                lambda x_adv: cross_entropy(h(x_adv, "adv"), y, reduction="none"),  # pyright: ignore[reportArgumentType]
                x,
                (key / "attack").on(x.device),
            )
        with branch(h.encoder):
            clean = h(x, self.natural)
        adv = h(x_adv, "adv")
        l1, l2 = self.weights(h.memory.accuracy.clone())  # pyright: ignore[reportCallIssue]
        natural, robust, divergence = cross_entropy(clean, y), cross_entropy(adv, y), kl_rows(clean, adv).mean()  # pyright: ignore[reportArgumentType]
        loss = l1 * natural + (1 - l1) * robust + l2 * divergence
        return {"loss": loss, "natural": natural, "robust": robust, "divergence": divergence, "l1": l1, "l2": l2}

    @torch.no_grad()
    def correct(self, h: Network, x: Float[Tensor, "N C H W"], y: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
        """What SA counts: whether each natural image is classified correctly, in eval mode."""
        with evaluating(h):
            if self.measured == "released" and self.natural == "adv":
                return h(x, "adv").argmax(-1) == y
            with branch(h.encoder):
                return h(x, self.natural).argmax(-1) == y


FULL = (0, 16, 24, 28, 36, 40, 42, 44, 46, 48, 50)
"""W of full fine-tuning, in epochs of 50."""


@dataclass(frozen=True)
@ranged
class AutoRate:
    """η, halved where the robust accuracy aᵢ on validation images, taken after each epoch i, has stopped to rise.

    As Auto-PGD's step size (Croce & Hein, ICML 2020, arXiv:2003.01690): at each checkpoint wⱼ in W, η ← η / 2, and the
    best weights so far come back, if
      1.  #{ i in wⱼ₋₁ .. wⱼ − 1 : aᵢ₊₁ > aᵢ } < ρ (wⱼ − wⱼ₋₁),   or
      2.  η was not halved at wⱼ₋₁, and max a is what it was there.
    Epochs are counted from 0, so that wⱼ is decided once wⱼ + 1 of them are done.
    """

    start: Positive = 0.1
    """η before the first checkpoint."""
    divide: Annotated[float, Range(1, open_low=True)] = 2.0
    rho: NonNegative = 0.75
    """ρ: the part of the epochs that have to bring a rise."""
    at: tuple[Natural, ...] = FULL
    """W, if there are `of` epochs; for another number of them it is scaled."""
    of: Count = 50
    unchanged: Literal["paper", "released"] = "paper"
    """Condition 2. "released": as the code has it, which compares η with a copy of itself: it applies after a halving
    too, and never at the first checkpoint."""

    def __post_init__(self) -> None:
        rising = self.at[:1] == (0,) and all(a < b for a, b in pairwise(self.at))
        if not (rising and self.of >= 1 and self.start > 0 and self.divide > 1):
            raise ValueError(
                f"an automatic rate has checkpoints that rise from 0, a start > 0 and divide > 1, "
                f"not {self.at}, {self.start:g} and {self.divide:g}"
            )

    def checkpoints(self, epochs: int) -> tuple[int, ...]:
        """W for this many epochs, each rounded to a whole one."""
        return tuple(sorted({(2 * w * epochs + self.of) // (2 * self.of) for w in self.at}))

    def __call__(self, history: list[float], epochs: int) -> tuple[float, bool]:
        """η of the epoch that follows, and whether it begins with the best weights; `history` is a₀, a₁, ..."""
        lr, halved, first = self.start, False, True
        for before, now in pairwise(self.checkpoints(epochs)):
            if now >= len(history):
                return lr, False
            rises = sum(b > a for a, b in pairwise(history[before : now + 1]))
            level = max(history[: now + 1]) == max(history[: before + 1])
            applies = not first if self.unchanged == "released" else not halved
            halved, first = rises < self.rho * (now - before) or (applies and level), False
            lr = lr / self.divide if halved else lr
            if now == len(history) - 1:
                return lr, halved
        return lr, False
