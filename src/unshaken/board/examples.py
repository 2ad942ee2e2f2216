"""The parts of a run's page that need the network: examples, classes, other ε, selections."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.board.check import Result
from unshaken.data.images import Images
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.stages import logits_of
from unshaken.evaluation.verdicts import Verdicts, wilson
from unshaken.nets.network import frozen
from unshaken.report.contact_sheet import contact_sheet
from unshaken.runs.selections import selections_in

SHOWN, MEASURED = 8, 128
"""The numbers of images that are shown, and that other ε are tried on."""
MULTIPLES = (0.25, 0.5, 1.0, 1.5, 2.0)
"""Multiples of the evaluation's ε, at which the network is attacked too."""
TIMES = 10
"""A perturbation is shown enlarged by this factor, around grey."""


@dataclass(frozen=True)
class Example:
    """A test image, its perturbation (enlarged) and the sum, with the network's answers."""

    index: int
    label: str
    clean: str
    perturbation: str
    adversarial: str
    answer: str
    answer_under_attack: str

    @property
    def held(self) -> bool:
        return self.answer == self.answer_under_attack == self.label


@dataclass(frozen=True)
class Seen:
    """Everything that is computed from the network or the images. `lacking` says, in a sentence, why it is missing."""

    examples: list[Example] = field(default_factory=list)
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    against_epsilon: list[tuple[float, float]] = field(default_factory=list)
    measured: int = 0
    lacking: str = ""


def seen(run: Path, result: Result) -> Seen:
    """Compute the examples of a run. If its network or images are missing, `lacking` says so."""
    try:
        classifier = Classifier.of_run(run)
        if classifier.weights != result["weights"]:
            return Seen(lacking=f"The classifier in {run} is not the result's.")
        images = classifier.images()
        if images.digest != result["data"]["digest"]:
            return Seen(lacking=f"The images of {images.name} here are not the result's.")
    except (ValueError, OSError) as error:
        return Seen(lacking=f"Examples, classes and other ε need the classifier and its test images: {error}.")
    evaluation = Evaluation.read(result["evaluation"])
    images = evaluation.select(images)
    if not isinstance(evaluation.attack, PGD):
        return Seen(lacking="Examples and other ε are made by PGD, and this result is of another attack.")
    with frozen(classifier.net):
        answers = logits_of(classifier.net)
        examples = [*shown(answers, images, evaluation.attack, result)]
        curve = epsilons(answers, images, evaluation.attack)
    return Seen(examples, by_class(images, result), curve, min(MEASURED, len(images)))


def attacked(answers: Any, x: Tensor, y: Tensor, attack: PGD, name: str) -> Tensor:
    return attack.maximise(
        lambda z: cross_entropy(answers(z), y, reduction="sum"), x, (Key(1) / "page" / name).on(x.device)
    )


def shown(answers: Any, images: Images, attack: PGD, result: Result) -> list[Example]:
    """Yield images that the attack breaks, then some that survive, then some that are misclassified without it."""
    clean, robust = (Verdicts.read(result[key]) for key in ("standard", "robust"))
    groups = [clean.bits & ~robust.bits, robust.bits, ~clean.bits]
    chosen = [
        k
        for group, count in zip(groups, (4, 2, 2), strict=True)
        for k in (group & robust.judged).nonzero()[:count, 0].tolist()
    ][:SHOWN]
    if not chosen:
        return []
    x, y = images.floats(torch.tensor(chosen)), images.label[torch.tensor(chosen)]
    x_adv = attacked(answers, x, y, replace(attack, restarts=1), "examples")
    with torch.no_grad():
        before, after = (answers(each).argmax(-1).tolist() for each in (x, x_adv))
    names = [str(name) for name in images.names]
    return [
        Example(
            index,
            names[int(y[k])],
            picture(x[k]),
            picture(0.5 + TIMES * (x_adv[k] - x[k])),
            picture(x_adv[k]),
            names[before[k]],
            names[after[k]],
        )
        for k, index in enumerate(chosen)
    ]


def epsilons(answers: Any, images: Images, attack: PGD) -> list[tuple[float, float]]:
    """Return pairs of ε and accuracy in percent, at 0 and at multiples of ε, on the first images."""
    index = torch.arange(min(MEASURED, len(images)))
    x, y = images.floats(index), images.label[index]
    with torch.no_grad():
        alive = answers(x).argmax(-1) == y
    found = [(0.0, 100 * float(alive.float().mean()))]
    for multiple in MULTIPLES:
        harder = replace(attack, ball=replace(attack.ball, eps=attack.ball.eps * multiple), steps=10, restarts=1)
        x_adv = attacked(answers, x, y, harder, f"epsilon {multiple}")
        with torch.no_grad():  # an image broken at a smaller ε counts as broken at a larger one
            alive = alive & (answers(x_adv).argmax(-1) == y)
        found.append((harder.ball.eps, 100 * float(alive.float().mean())))
    return found


def by_class(images: Images, result: Result) -> dict[str, dict[str, float]]:
    """Return, in percent, SA and RA of each class."""
    label = images.label.cpu()
    found: dict[str, dict[str, float]] = {}
    for k, name in enumerate(images.names):
        mine = label == k
        row = {}
        for column, key in (("SA", "standard"), ("RA", "robust"), ("AA", "autoattack")):
            verdicts = Verdicts.read(result[key]) if key in result else None
            if verdicts is not None and len(verdicts.bits) == len(mine) and (judged := mine & verdicts.judged).any():
                row[column] = 100 * float(verdicts.bits[judged].float().mean())
        found[str(name)] = row
    return found


def interval(score: dict[str, Any]) -> tuple[float, float]:
    low, high = wilson(score["correct"], score["n"])
    return 100 * low, 100 * high


def picture(x: Tensor) -> str:
    """Return a PNG of one image (C H W, in [0, 1]) as a data URI."""
    pixels = (x.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return data_uri(pixels.transpose(1, 2, 0))


def data_uri(array: Any) -> str:
    """Return a PNG of an array (H W C, uint8), or of a picture, as text."""
    from PIL import Image

    if isinstance(array, numpy.ndarray):
        array = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    out = io.BytesIO()
    array.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def selection_sheets(run: Path, most: int = 80) -> list[tuple[str, str]]:
    """Return contact sheets of a run's last selection and of as many random images, each grouped by class."""
    try:
        found, classifiers, images = selections_in(run)
    except (ValueError, OSError):
        return []
    epoch, index, _ = list(found.values())[-1]
    some = numpy.random.default_rng(1).choice(classifiers, min(len(index), len(classifiers)), replace=False).tolist()
    return [
        (f"Picked before epoch {epoch}: {len(index)} of {len(classifiers)} images", grouped(images, index, most)),
        (f"By chance: {len(some)} of {len(classifiers)} images", grouped(images, some, most)),
    ]


def grouped(images: Images, index: Sequence[int], most: int) -> str:
    """Return a contact sheet of at most `most` of the images, evenly spaced, in the order of the classes if any."""
    ordered = list(index)
    if images.label is not None:
        ordered.sort(key=lambda i: int(images.label[i]))
    step = max(1, len(ordered) // most)
    return data_uri(contact_sheet(images.pixels[ordered[::step][:most]].numpy()))
