"""Statistics of batch norms: re-estimated on training batches, as the method sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unshaken.base.distributed import processes
from unshaken.base.shared_batch import sharing
from unshaken.base.types import Batch
from unshaken.methods.base import Step
from unshaken.nets.network import Encoder
from unshaken.nets.shared_bn import moments
from unshaken.train.attack_policy import AttackPolicy
from unshaken.train.averaging import AveragedWeights
from unshaken.train.batches import BatchStream, Position
from unshaken.train.best_weights import KeptWeights, Score

BATCHES = 20
"""Batches that statistics are estimated on, if an epoch has as many."""


class _Sums:
    """The sums of the means and variances of the batches, or ghost batches, that one batch norm has seen."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm, self.count = norm, 0
        self.mean = torch.zeros_like(norm.running_mean)  # pyright: ignore[reportArgumentType]
        self.var = torch.zeros_like(norm.running_var)  # pyright: ignore[reportArgumentType]

    def note(self, norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        if norm.training:
            mean, var = moments(norm, given[0].detach())
            self.mean, self.var, self.count = self.mean + mean.sum(0), self.var + var.sum(0), self.count + len(mean)

    def write(self) -> None:
        """Set the running statistics to the means of what was seen; they stay if nothing was."""
        if self.count:
            self.norm.running_mean.copy_(self.mean / self.count)  # pyright: ignore[reportOptionalMemberAccess]
            self.norm.running_var.copy_(self.var / self.count)  # pyright: ignore[reportOptionalMemberAccess]


@contextmanager
def estimating(net: nn.Module) -> Iterator[None]:
    """Set the statistics of a network's batch norms, at the end of the block, to those of what they saw in train mode.

    Within the block their statistics do not change, so that attacks in eval mode meet the network as it is.
    """
    sums = [_Sums(m) for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    with ExitStack() as after:
        for one in sums:
            after.callback(setattr, one.norm, "momentum", one.norm.momentum)
            after.callback(one.norm.register_forward_pre_hook(one.note).remove)
            one.norm.momentum = 0.0
        yield
    for one in sums:
        one.write()


def reestimate(step: Step, feed: BatchStream, batches: int = BATCHES) -> None:
    """Re-estimate the statistics of the student's batch norms on batches of an epoch, as the method's loss sees it.

    Attacks run anew: they are neither recorded for a selection nor continued from an update's.
    """
    frozen, policy, step.frozen_norms = step.frozen_norms, step.policy, False
    if isinstance(policy, AttackPolicy):
        step.policy = replace(policy, replay=None, record=None, reuse=None)
    step.train()
    with estimating(step.net.encoder), torch.no_grad():
        for number, batch in _batches(feed, batches):
            step(batch, feed.clock(Position()), feed.key / "statistics" / number)
    step.frozen_norms, step.policy = frozen, policy
    step.train()


def take_weights(step: Step, feed: BatchStream) -> None:
    """Write into the network the weights that a run returns: the best ones, or the average, if it has either."""
    if isinstance(step.kept, KeptWeights):
        step.kept.restore(step.net)
    else:
        take_average(step, feed)


def look(step: Step, feed: BatchStream, epoch: int) -> Score | None:
    """Score the weights after an epoch, or their average if there is one, and keep them if they are the best so far.

    Return the score, or None if none is due. The network is afterwards what it was before.
    """
    kept, net = step.kept, step.net
    if not isinstance(kept, KeptWeights) or not kept.due(epoch):
        return None
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()} if step.average else {}
    take_average(step, feed)
    score = processes().first(lambda: kept.score(net))
    kept.note(net, epoch, score)
    if before:
        net.load_state_dict(before)
    return score


def take_average(step: Step, feed: BatchStream) -> None:
    """Write the average of the weights into the network, if there is one, with statistics of its own."""
    if isinstance(step.average, AveragedWeights):
        step.average.copy_to(step.net)
        if step.average.rule.statistics == "reestimate" and not step.frozen_norms:
            reestimate(step, feed)


def reestimate_clean(encoder: Encoder, feed: BatchStream, batches: int = BATCHES) -> None:
    """Re-estimate the statistics of an encoder's batch norms on views without attacks, and leave it in eval mode."""
    with estimating(encoder.train()), torch.no_grad():
        for _, batch in _batches(feed, batches):
            with sharing(batch.rows, batch.count):
                encoder(batch.views[0])
    encoder.eval()


def _batches(feed: BatchStream, count: int) -> Iterator[tuple[int, Batch]]:
    for number, index in enumerate(feed.batches(0, feed.images.pixels.device)[:count]):
        strength = feed.strength(feed.clock(Position()))
        rows = processes().rows(len(index))
        yield number, feed.make_batch(index, strength, feed.key / "statistics" / "views" / number, rows=rows)
