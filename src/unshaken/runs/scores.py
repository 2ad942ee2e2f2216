"""Scores of weights on held-out training images, by which a run keeps its best ones"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from unshaken.attacks.ball import AnyBall
from unshaken.attacks.pgd import PGD
from unshaken.base.amounts import amount
from unshaken.base.distributed import processes
from unshaken.base.rng import Key
from unshaken.data.images import Images
from unshaken.evaluation.judge import judge
from unshaken.evaluation.protocol import Evaluation
from unshaken.losses.representation import displacement
from unshaken.nets.network import Network, frozen
from unshaken.train.best_weights import Best, KeptWeights, Score
from unshaken.train.gauges import adversarial_route

if TYPE_CHECKING:
    from unshaken.methods.base import Step

CHUNK = 256
"""Images that are attacked at a time."""


def check_held_out(keep: Best | None, holdout: int) -> None:
    """Raise a ValueError if weights are to be chosen and no images are held out."""
    if keep and not holdout:
        raise ValueError("--keep Best chooses on training images that are held out: add --holdout 10, for example")


def scored(images: Images, rule: Best, key: Key) -> Images:
    """Return the held-out images that are scored, the same at each look. ValueError if there are fewer than two."""
    if len(images) < 2:
        found = amount(len(images), "image")
        raise ValueError(f"--holdout holds out {found}, and --keep Best needs 2: choose a smaller number")
    order = torch.randperm(len(images), generator=(key / "scored").on("cpu"))[: rule.images].sort().values
    return replace(images[order.to(images.pixels.device)], split=images.split)


def robust_accuracy(images: Images, rule: Best, ball: AnyBall, seed: int) -> Callable[[Network], Score]:
    """Return the score of a classifier: its accuracies under PGD, and without an attack, by the evaluation's code."""
    evaluation = Evaluation(PGD(ball, steps=rule.steps), seed=seed)

    def score(net: Network) -> Score:
        verdicts = judge(evaluation, net, images)
        return verdicts["pgd"].correct / len(images), verdicts["clean"].correct / len(images)

    return score


def stillness(
    images: Images, rule: Best, ball: AnyBall, key: Key, of_teacher: bool = False
) -> Callable[[Network], Score]:
    """Return the label-free score of an encoder: minus the displacement of its features by PGD on ‖f(x̃) − f(x)‖².

    of_teacher  score the network's teacher, where that is what the run returns
    """
    attack = PGD(ball, steps=rule.steps)

    def score(net: Network) -> Score:
        net = net.teacher if of_teacher else net  # pyright: ignore[reportAssignmentType]
        route, found = adversarial_route(net), []
        with frozen(net):
            for number, rows in enumerate(torch.arange(len(images)).split(CHUNK)):
                x = images.floats(rows.to(images.pixels.device))
                with torch.no_grad():
                    f = net.features(x, route)
                generator = (key / "stillness" / number).on(x.device)
                x_adv = attack.maximise(lambda v, f=f: (net.features(v, route) - f).square().sum(-1), x, generator)
                with torch.no_grad():
                    found.append((f, net.features(x_adv, route)))
        f, f_adv = (torch.cat(parts) for parts in zip(*found, strict=True))
        return -displacement(f_adv, f), 0.0

    return score


def chosen_weights(step: Step, images: int, what: str, quiet: bool) -> dict[str, Any] | None:
    """Return the record of the weights that were kept, or None if none were chosen, and print a line on them.

    images, what  the number of images that were scored, and the score in words
    """
    kept = step.kept
    if not isinstance(kept, KeptWeights):
        return None
    if quiet or processes().rank:
        return kept.to_json()
    best, last = (abs(float(kept.scores[epoch, 0])) for epoch in (int(kept.epoch), kept.epochs))
    print(
        f"kept: the weights after epoch {int(kept.epoch)} of {kept.epochs}, with {what} {best:.4g} on {images:,} "
        f"held-out images; after the last epoch it was {last:.4g}",
        file=sys.stderr,
    )
    return kept.to_json()
