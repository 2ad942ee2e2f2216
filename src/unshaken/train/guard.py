"""The guard of a training run: after a collapse or a loss that is not finite, it goes back to the last sound weights.

A student that gives every image the same answer has the score of a constant answer, which methods with a teacher state
beside their own (`constant` in the log). A run that scores no better has collapsed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unshaken.base.ranges import Count, Inside, Unit, ranged
from unshaken.base.types import LossTerms


@dataclass(frozen=True)
@ranged
class Guard:
    """Every few updates the mean score since the last look is compared with that of the best constant answer.

    After a rollback the run goes on with the next images, the optimizer starts anew, and the learning rate is lower to
    the end. All of it depends on the number of updates alone, so that a resumed run does the same.
    """

    every: Count = 10
    """Updates between two looks."""
    grace: Unit = 0.5
    """Part of the run in which a student may still score worse than a constant answer, if it never was better."""
    factor: Inside = 0.3
    """Factor on the learning rate at each rollback."""
    tries: Count = 5
    """Rollbacks after which the run gives up."""


class GuardState(nn.Module):
    """The state of a guard: scores so far and the last sound weights. It is part of a run's checkpoint."""

    rollbacks: Tensor
    seen: Tensor
    sums: Tensor
    better: Tensor

    def __init__(self, guard: Guard, score: str, net: nn.Module, total: int) -> None:
        """Start with the network's weights as the last sound ones.

        score  the term that is compared with the term "constant"
        total  updates of the run
        """
        super().__init__()
        self.guard, self.score, self.total = guard, score, total
        self.register_buffer("rollbacks", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(3))
        self.register_buffer("better", torch.zeros((), dtype=torch.bool))
        self.names = [name for name in net.state_dict() if not name.startswith("teacher.")]
        for number, tensor in enumerate(_tensors(net, self.names)):
            self.register_buffer(f"w{number}", tensor.detach().clone())

    @property
    def rate(self) -> float:
        """The factor on the learning rate."""
        return self.guard.factor ** int(self.rollbacks)

    def note(self, terms: LossTerms, net: nn.Module) -> str | None:
        """Record an update, and keep its weights if they are sound. Return why they are to be rolled back, else None.

        ValueError if the guard gives up.
        """
        values = [terms["loss"], terms[self.score], terms["constant"]]
        self.sums += torch.stack([value.detach().float().to(self.sums.device) for value in values])
        self.seen += 1
        if int(self.seen) % self.guard.every:
            return None
        loss, score, constant = (self.sums / self.guard.every).tolist()
        self.sums.zero_()
        if loss != loss or abs(loss) == float("inf"):
            reason = "the loss is no longer a finite number"
        elif score < constant:
            self.better.fill_(True)
            self._keep(net)
            return None
        elif bool(self.better) or int(self.seen) > self.guard.grace * self.total:
            reason = f"{self.score} {score:.4g} is no better than a constant answer's {constant:.4g}"
        else:
            return None
        if int(self.rollbacks) == self.guard.tries:
            raise ValueError(
                f"{reason}, after {self.guard.tries} rollbacks: choose a lower --lr.peak, a smaller ε "
                "(--method.attack.ball.eps), or a longer warm-up (--lr.warmup)"
            )
        return reason

    def _keep(self, net: nn.Module) -> None:
        """Take the network's weights as the last sound ones."""
        for number, tensor in enumerate(_tensors(net, self.names)):
            self.get_buffer(f"w{number}").copy_(tensor)

    def roll_back(self, net: nn.Module, rule: torch.optim.Optimizer) -> None:
        """Write the last sound weights into the network, and let the optimizer start anew."""
        for number, tensor in enumerate(_tensors(net, self.names)):
            tensor.copy_(self.get_buffer(f"w{number}"))
        rule.state.clear()
        self.better.fill_(False)
        self.rollbacks += 1


def _tensors(net: nn.Module, names: list[str]) -> list[Tensor]:
    state = net.state_dict()
    return [state[name] for name in names]
