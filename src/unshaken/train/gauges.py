"""Gauges of a run in training: does the representation move under attack, collapse, or fool a one-step attack?

They are measured on some training images, always the same, in eval mode, by keys of their own: the run does not change.
A recipe with `holdout` keeps images out of the training, and has its gauges measured on those.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import Tensor

from unshaken.attacks.ball import Ball
from unshaken.attacks.pgd import PGD
from unshaken.base.amounts import amount
from unshaken.base.ranges import Natural, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float
from unshaken.data.images import Images
from unshaken.losses.divergence import kl_rows
from unshaken.losses.representation import (
    alignment,
    displacement,
    effective_rank,
    knn_accuracy,
    neighbour_flips,
    uniformity,
)
from unshaken.nets.dual_bn import routes_of
from unshaken.nets.network import Network, frozen
from unshaken.transforms.views import AnyViews

COUNT, BANK, STEPS = 128, 512, 5
"""Images that are attacked, images among which neighbours are sought, and steps of the attack."""
CHUNK, FEWEST = 256, 32
SHARE = 0.02
"""The largest share of a run's work that gauges take by default."""
COLLAPSED_RANK, COLLAPSED_UNIFORMITY = 1.5, -0.05
"""Below this effective rank, or above this uniformity, all images have nearly the same direction."""
MASKED = 3.0
"""From this ratio of the displacements by STEPS steps and by one step on, one step does not find the loss's rise."""


@dataclass(frozen=True)
@ranged
class GaugeOptions:
    """Gauges while a run trains, on some of its images: effective rank, displacement under attack, kNN, and others."""

    every: Natural | None = None
    """Epochs between two measurements. None: as many as keep their work below 2 % of the run's; 0: never."""


@dataclass(frozen=True, eq=False)
class Gauges:
    """The gauges of one run.

    images  the training images, or those held out, from which the same ones are always drawn
    ball    the ball of the attack
    every   epochs between two measurements
    """

    images: Images
    views: AnyViews
    ball: Ball
    every: int
    key: Key = Key("gauges")
    said: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, options: GaugeOptions, images: Images, views: AnyViews, ball: Ball) -> Gauges | None:
        """Return the gauges that the options ask for; None for none, and for fewer than 32 training images."""
        every = every_by_cost(len(images), views.count) if options.every is None else options.every
        if every and images.split == "held-out" and len(images) < FEWEST:
            raise ValueError(
                f"--holdout holds out {amount(len(images), 'image')}, and gauges need {FEWEST}: choose a smaller number"
            )
        return cls(images, views, ball, every) if every and len(images) >= FEWEST else None

    def due(self, epoch: int) -> bool:
        """Return whether to measure after this many epochs."""
        return epoch % self.every == 0

    def measure(self, net: Network) -> dict[str, float]:
        """Measure the encoder's features, on its adversarial route if it has one, and warn of what they show."""
        route = adversarial_route(net)
        order = torch.randperm(len(self.images), generator=self.key.on("cpu"))
        count = min(COUNT, len(order) // 3)
        index, bank = order[:count].sort().values, order[count : count + BANK].sort().values
        with frozen(net):
            found = self._measured(lambda x: net.features(x, route), index, bank)
        self._warn(found)
        return {f"gauges/{name}": round(value, 5) for name, value in found.items()}

    def _measured(self, encode, index: Tensor, rows: Tensor) -> dict[str, float]:
        x = self.images.floats(index.to(self.images.pixels.device))
        with torch.no_grad():
            f, bank = encode(x), self._features(encode, rows)
            views = self.views(x, 1.0, self.key / "views")[:2]
            f_views = encode(views) if len(views) == 2 else None
        f_adv, f_once = (self._attacked(encode, x, f, steps) for steps in (STEPS, 1))
        found = {
            "effective_rank": effective_rank(torch.cat([f, bank])),
            "uniformity": uniformity(f),
            "displacement": displacement(f_adv, f),
            "displacement_one_step": displacement(f_once, f),
            "divergence": float(kl_rows(f_adv, f).mean()),
            "neighbour_flips": neighbour_flips(f_adv, f, bank),
        }
        found |= {"alignment": alignment(f_views)} if f_views is not None else {}
        if self.images.label is not None:
            label = self.images.label.to(f.device)
            y, labels = label[index.to(f.device)], label[rows.to(f.device)]
            found |= {"knn": knn_accuracy(f, y, bank, labels), "knn_attacked": knn_accuracy(f_adv, y, bank, labels)}
        return found

    def _features(self, encode, rows: Tensor) -> Float[Tensor, "N D"]:
        device = self.images.pixels.device
        return torch.cat([encode(self.images.floats(part.to(device))) for part in rows.split(CHUNK)])

    def _attacked(self, encode, x: Tensor, f: Tensor, steps: int) -> Float[Tensor, "N D"]:
        """Return the features after PGD on ‖f(x̃) − f(x)‖², by steps whose total is 5/4 ε, or one of ε."""
        attack = PGD(self.ball, steps) if steps > 1 else PGD(self.ball, 1, rel_step_size=1.0, init="gaussian")
        x_adv = attack.maximise(lambda v: (encode(v) - f).square().sum(-1), x, (self.key / "attack").on(x.device))
        with torch.no_grad():
            return encode(x_adv)

    def _warn(self, found: dict[str, float]) -> None:
        """Print what the gauges show, each once: a collapse, and catastrophic overfitting to attacks of one step."""
        if found["effective_rank"] < COLLAPSED_RANK or found["uniformity"] > COLLAPSED_UNIFORMITY:
            self._say(
                "collapse",
                f"the features collapse: their effective rank is {found['effective_rank']:.2f}, and their uniformity "
                f"{found['uniformity']:.3f} (0 is a single point); a lower --lr.peak or stronger views may help",
            )
        ratio = found["displacement"] / max(found["displacement_one_step"], 1e-9)
        if ratio > MASKED and found["displacement"] > 0.1:
            self._say(
                "one step",
                f"{STEPS} steps of PGD move the features {ratio:.1f} times as far as one step: catastrophic "
                "overfitting, where an attack of few steps is learned and others are not; more --method.attack.steps "
                "help",
            )

    def _say(self, kind: str, words: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            print(f"warning: {words}", file=sys.stderr)


def adversarial_route(net: Network) -> str:
    """Return the route of adversarial images: "adv" if the encoder has it or has none, else its first one."""
    routes = routes_of(net.encoder)
    return "adv" if "adv" in routes or not routes else routes[0]


def every_by_cost(images: int, views: int) -> int:
    """Return how many epochs lie between measurements whose work is at most 2 % of the training's.

    In forward passes of an image: a measurement takes COUNT and BANK, COUNT for each of the two views and of the two
    attacks, and three for each step of an attack; an epoch takes at least three for each view of each image.
    """
    measurement = COUNT + BANK + 4 * COUNT + 3 * (STEPS + 1) * COUNT
    return max(1, ceil(measurement / (SHARE * 3 * views * max(1, images))))
