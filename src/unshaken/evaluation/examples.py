"""Adversarial examples of an evaluation: images that the attack changed the answer to, with both answers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unshaken.attacks.base import Model
from unshaken.base.rng import Key
from unshaken.base.types import Float, Int
from unshaken.data.images import Images
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.stages import logits_of
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.nets.checkpoint import write_tensors
from unshaken.nets.network import Network, frozen


@dataclass(frozen=True, eq=False)
class AdversarialExamples:
    """Images that were classified correctly, and wrongly after the attack of robust accuracy.

    index        the number of each image in the set
    clean        the images as they are, in [0, 1]
    adversarial  the images after the attack
    label        their classes
    answer       what the network answers to the adversarial images; to the clean ones it answers `label`
    names        the class names
    """

    index: Int[Tensor, "N"]
    clean: Float[Tensor, "N C H W"]
    adversarial: Float[Tensor, "N C H W"]
    label: Int[Tensor, "N"]
    answer: Int[Tensor, "N"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def captions(self) -> tuple[str, ...]:
        """The class of each image, and the network's answer after the attack: cat → dog."""
        pairs = zip(self.label.tolist(), self.answer.tolist(), strict=True)
        return tuple(f"{self.names[label]} → {self.names[answer]}" for label, answer in pairs)

    def save(self, file: Path) -> None:
        """Write the tensors as safetensors."""
        names = ("index", "clean", "adversarial", "label", "answer")
        write_tensors(file, {name: getattr(self, name) for name in names}, {"kind": "examples", "names": self.names})


SCORES = {"clean (SA)": "standard", "under PGD or the given attack (RA)": "robust", "under AutoAttack": "autoattack"}


class EvaluationResult(dict):
    """A result as in its JSON file; `examples` has the adversarial images that were asked for, else None."""

    def __init__(self, result: dict[str, Any], examples: AdversarialExamples | None = None) -> None:
        super().__init__(result)
        self.examples = examples

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The same as text, for IPython in a terminal."""
        lines = [f"{name:<36}{s['percent']:6.1f} %  {s['correct']} of {s['n']} images" for name, s in self._scores()]
        more = "a dictionary; its fields: " + ", ".join(self)
        printer.text("\n".join([*lines, *textwrap.wrap(more, 88)]))

    def _scores(self) -> list[tuple[str, dict[str, Any]]]:
        return [(name, self[key]) for name, key in SCORES.items() if key in self]

    def _repr_html_(self) -> str:
        """A short table for notebooks, in place of the full dictionary with its verdicts."""
        cells = "".join(
            f"<tr><td>{name}</td><td>{score['percent']:.1f} %</td><td>{score['correct']} of {score['n']}</td></tr>"
            for name, score in self._scores()
        )
        return f"<table><tr><th>accuracy</th><th></th><th>images</th></tr>{cells}</table>"


def adversarial_examples(
    evaluation: Evaluation, net: Network, images: Images, log: VerdictLog, wanted: int, search: Network | None = None
) -> AdversarialExamples:
    """Return the first images, in the order of the evaluation, that its first attack broke: up to `wanted`.

    The attack is run again on their blocks with the same key, so these are the images that were judged.
    """
    images = evaluation.select(images)
    stage = next(stage for stage in evaluation.stages if stage.name == evaluation.first_attack_names[-1])
    found: list[tuple[Tensor, ...]] = []
    with frozen(net), frozen(search or net):
        model = Model(logits_of(search or net), logits_of(net) if search else None)
        for block, index in enumerate(evaluation.blocks(len(images))):
            alive, after = log.read(stage.after or "clean", block), log.read(stage.name, block)
            if alive is None or after is None or not (alive & ~after).any():
                continue
            index = index[alive].to(images.pixels.device)
            x, y = images.floats(index), images.label[index]
            x_adv = stage.perturb(model, x, y, Key(evaluation.seed) / stage.name / block, index)
            with torch.no_grad():
                answer = net(x_adv, "adv").argmax(-1)
            rows = (answer != y).nonzero()[:, 0]
            found.append(tuple(each[rows].cpu() for each in (index.to(rows.device), x, x_adv, y, answer)))
            if sum(len(each[0]) for each in found) >= wanted:
                break
    return _joined(found, wanted, images)


def _joined(found: Sequence[tuple[Tensor, ...]], wanted: int, images: Images) -> AdversarialExamples:
    nothing = (torch.zeros(0, dtype=torch.int64), images.floats(slice(0, 0)).cpu(), images.floats(slice(0, 0)).cpu())
    none = (*nothing, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    joined = [torch.cat(each)[:wanted] for each in zip(none, *found, strict=True)]
    return AdversarialExamples(*joined, images.names)  # pyright: ignore[reportCallIssue]
