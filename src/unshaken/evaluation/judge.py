"""Judging: the network answers every block of images at every stage, and verdicts are logged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unshaken.attacks.base import Model
from unshaken.base.rng import Key
from unshaken.base.types import Bool
from unshaken.data.images import Images
from unshaken.evaluation.progress import evaluation_progress
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.stages import EvaluationStage, correct, in_ball, logits_of
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.evaluation.verdicts import Verdicts
from unshaken.nets.network import Network, frozen


def judge(
    evaluation: Evaluation,
    net: Network,
    images: Images,
    log: VerdictLog | None = None,
    quiet: bool = True,
    search: Network | None = None,
    only: Sequence[int] | None = None,
) -> dict[str, Verdicts]:
    """Return the verdicts by stage. Each is logged when it is reached; a verdict that the log has is reused.

    search  the network on which attacks search for adversarial images, if it is another one: `net` decides whether an
            image that they found is misclassified
    only    the numbers of the blocks to judge; all blocks if it is not given
    """
    images, log = evaluation.select(images), log or VerdictLog()
    stages, blocks = evaluation.stages, evaluation.blocks(len(images))
    numbers = range(len(blocks)) if only is None else only
    calls = {stage.name: stage.calls for stage in stages}
    shown = evaluation_progress(calls, evaluation, log, blocks, numbers, quiet)
    with frozen(net), frozen(search or net), shown as progress:
        model = Model(progress.counted(logits_of(search or net)), logits_of(net) if search else None)
        judged = Judged(evaluation, model, net, images, log)
        for block in numbers:
            if is_precise_enough(evaluation, log, blocks):
                break
            for stage in stages:
                if evaluation.includes(stage.name, block) and log.read(stage.name, block) is None:
                    progress.begin(block, stage.name)
                    start = time.monotonic()
                    bits = judged.block(stage, block, blocks[block])
                    log.write(stage.name, block, bits, time.monotonic() - start)
                    progress.end(block, stage.name)
    return verdicts_of(evaluation, log, len(images))


@dataclass(frozen=True, eq=False)
class Judged:
    """The network that is judged, as attacks see it and as it is, with the images and the log."""

    evaluation: Evaluation
    model: Model
    net: Network
    images: Images
    log: VerdictLog

    def block(self, stage: EvaluationStage, block: int, index: Tensor) -> Bool[Tensor, "n"]:
        """Judge one block at one stage: True for each image that is still classified correctly.

        Only the survivors of the stage before it are attacked: no attack corrects a wrong answer.
        """
        alive = torch.ones(len(index), dtype=torch.bool)
        if stage.after is not None:
            alive = self.log.read(stage.after, block)
            assert alive is not None
        if not alive.any():
            return alive
        index = index[alive].to(self.images.pixels.device)
        x, y = self.images.floats(index), self.images.label[index]
        x_new = stage.perturb(self.model, x, y, Key(self.evaluation.seed) / stage.name / block, index)
        if stage.ball is not None:
            assert in_ball(x_new, x, stage.ball), f"{stage.name} left the ball"
        verdicts = alive.clone()
        verdicts[alive] = correct(self.net, x_new, y).cpu()
        return verdicts


def verdicts_of(evaluation: Evaluation, log: VerdictLog, total: int) -> dict[str, Verdicts]:
    """Return the verdicts that the log has by now, by stage, on a set of `total` images."""
    blocks = evaluation.blocks(total)
    return {stage.name: log.verdicts(stage.name, blocks) for stage in evaluation.stages}


def is_complete(evaluation: Evaluation, verdicts: Mapping[str, Verdicts]) -> bool:
    """Return whether every stage has judged every block that it includes."""
    blocks = evaluation.blocks(len(next(iter(verdicts.values())).judged))
    return all(
        len(judged) == sum(len(index) for block, index in enumerate(blocks) if evaluation.includes(name, block))
        for name, judged in verdicts.items()
    )


def is_precise_enough(evaluation: Evaluation, log: VerdictLog, blocks: Sequence[Tensor]) -> bool:
    """Return whether the interval of the last attack is as narrow as `until` asks for."""
    if evaluation.until is None:
        return False
    judged = log.verdicts(evaluation.chain[-1], blocks)
    low, high = judged.forecast()
    return len(judged) > 0 and 100 * (high - low) <= evaluation.until
