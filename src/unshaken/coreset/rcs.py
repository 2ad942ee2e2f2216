"""RCS: robustness-aware coreset selection, by greedy search.

Xu et al., "Efficient Adversarial Contrastive Learning via Robustness-Aware Coreset Selection", NeurIPS 2023,
arXiv:2302.03857. RCS picks the images of X that, after one training step on them, leave the embeddings of a validation
set U least changed by attacks:

    min_{S ⊂ X, |S| = k|X|} L_RD(U; θ − η ∇_θ L(S; θ)),   L_RD(U; θ) = mean over U of d(h(x̃), h(x)),
    x̃ = argmax over B_ε[x] of d(h(x̃), h(x)),

greedily, item by item, and to first order in η: G(b | S) = η ⟨∇L_RD(U; θ_S), ∇L(b; θ)⟩. θ are the parameters of the
head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.ranges import BelowOne, Count, NonNegative, ranged
from unshaken.base.rng import Key
from unshaken.base.serialize import LATER
from unshaken.base.types import Float, Int
from unshaken.coreset import released
from unshaken.coreset.diversity import Diversity
from unshaken.coreset.gradients import Gradients, Theta
from unshaken.coreset.objective import Granularity, SelectionObjective
from unshaken.coreset.selector import Selector, check_budget, chunks, random_subset
from unshaken.losses.divergence import Distance


@dataclass(frozen=True)
@ranged
class RCS(Selector):
    """Repeat:  r = ∇L_RD(U; θ′);  b* = argmax_b ⟨q_b, r⟩;  θ′ ← θ′ − η′ q_b*,   from θ′ = θ, q_b = ∇L(b; θ).

    Inner products are over the whole head. The released code (GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef) differs in
    four ways. It averages each gradient over the outputs of a layer first, which for a classifier gives zero except for
    rounding. As KL it computes `minmax_rows`. It moves θ′ twice for each pick. And it uses half of U. The form
    "released" is the first three.
    """

    eta: NonNegative = 0.01
    """η′, the step size for θ′."""
    granularity: Granularity = "batch"
    """The items to pick: mini-batches, or single samples."""
    distance: Distance = "kl"
    """d, the distance between adversarial and clean embeddings."""
    attack: PGD = PGD(Linf(8 / 255), steps=3, rel_step_size=5 / 12)
    """The attack on U."""
    refresh: Count | None = None
    """Number of picks between two attacks on U; 1 is the published search, None attacks once. In either case the
    gradient of L_RD is updated after every pick; this needs only the head, since nothing else changes."""
    at_once: Count = 1
    """Number of picks that share one gradient r; 1 is the definition. Single samples hardly change θ′, so for them it
    can be larger."""
    slack: BelowOne = 0.0
    """0: exact greedy search. Otherwise each pick compares only a random subset of the items, larger for a smaller
    slack (`random_subset`); 0.05 is suitable for samples."""
    chunk: Count | None = None
    """Number of mini-batches whose gradients are in memory together. Each chunk has its share of the picks, and
    continues from the θ′ of the chunk before. None: as many as fit in 512 MiB, which on CIFAR is all of them."""

    form: Literal["paper", "released"] = field(default="paper", metadata=LATER)
    """paper: the search of the paper. released: the gains of the released code, which averages gradients over the
    outputs of a layer, with d = `minmax_rows` and θ′ ← θ′ − 2 η′ q_b*. Set refresh=1 too, since that code attacks U
    after each pick. Use it only for projection heads: with a softmax these gains are rounding noise."""
    diversity: NonNegative = field(default=0.0, metadata=LATER)
    """λ, the weight of diversity among single images: a gain, in standard deviations of all gains, is reduced by λ
    times the largest cosine similarity of the image's features with those picked. 0: no diversity term."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "released" and self.distance != "kl":
            raise ValueError(f"the released form of RCS needs the distance kl, not {self.distance}")
        if self.diversity and self.granularity == "batch":
            raise ValueError(
                "diversity compares single images, not mini-batches: set granularity to sample, or diversity to 0"
            )
        positive = (self.refresh is None or self.refresh >= 1, self.at_once >= 1, self.chunk is None or self.chunk >= 1)
        if not (self.eta >= 0 and 0 <= self.slack < 1 and all(positive)):
            raise ValueError(
                "a greedy search has eta ≥ 0, slack in [0, 1), at_once ≥ 1, and refresh and chunk ≥ 1 or None, "
                f"not {self.eta:g}, {self.slack:g}, {self.at_once}, {self.refresh} and {self.chunk}"
            )

    needs_gradients: ClassVar = True

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        rng, form = (key / "glance").on("cpu"), FORMS[self.form]
        distance = form.distance or self.distance
        theta, rd, age, picked = problem.theta, None, 0, []
        diversity = Diversity(problem.features(), self.diversity) if self.diversity else None
        for batches, budget in chunks(problem, self.granularity, count, self.chunk):
            q = problem.gradients(batches, self.granularity)
            left = torch.ones(len(q), dtype=torch.bool)
            picks = budget * len(q) / len(q.index)
            begin = sum(len(problem.batches[b]) for b in range(batches.start))
            while budget > 0:
                if rd is None or (self.refresh and age >= self.refresh):
                    rd, age = problem.validation(theta, distance, self.attack), 0
                r = form.direction(gradient(rd, theta))
                seen, gains = self._gains(q, r, left, picks, rng)
                at_once = min(self.at_once, int(left.sum()), budget)
                if diversity:
                    order = diversity.pick(gains, begin + seen, at_once)
                else:
                    order = gains.argsort(descending=True, stable=True)[:at_once]
                for best in seen[order].tolist():
                    picked.append(q.images(best)[:budget])
                    budget, age, left[best] = budget - len(picked[-1]), age + 1, False
                    theta = step(theta, q.of(best), form.moves * self.eta)
                    if budget == 0:
                        break
            del q  # frees the memory before the next chunk
        return torch.cat(picked)

    def _gains(
        self, q: Gradients, r: Theta, left: Tensor, picks: float, rng: torch.Generator
    ) -> tuple[Int[Tensor, "m"], Float[Tensor, "m"]]:
        """Return the items that this pick compares, and their gains; −∞ for those picked already."""
        if self.slack:
            seen = random_subset(left, picks, self.slack, rng)
            return seen, q.along(r, seen).cpu()
        return torch.arange(len(q)), q.along(r).cpu().masked_fill(~left, -torch.inf)


def gradient(rd: Callable[[Theta], Float[Tensor, ""]], theta: Theta) -> Theta:
    """Return ∇L_RD(U; θ), with 0 for parameters that it does not depend on."""
    with torch.enable_grad():
        theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
        gradients = torch.autograd.grad(rd(theta), list(theta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(theta, gradients, strict=True))


def step(theta: Theta, q: Theta, eta: float) -> Theta:
    """Return θ − η q."""
    return {name: value - eta * q[name] for name, value in theta.items()}


class Form(NamedTuple):
    """The steps in which the paper and the released code differ.

    distance   d, instead of the field `distance`; None: that field
    direction  what the gains are inner products with, from ∇L_RD
    moves      number of steps of size η′ for each pick
    """

    distance: Distance | None
    direction: Callable[[Theta], Theta]
    moves: int


FORMS = {
    "paper": Form(None, lambda r: r, 1),
    "released": Form(released.DISTANCE, released.average_outputs, released.MOVES),
}
