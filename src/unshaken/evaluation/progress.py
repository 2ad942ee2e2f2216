"""Progress of an evaluation on stderr: a bound, a forecast, speed, attack steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Protocol, runtime_checkable

from torch import Tensor

from unshaken.base.progress import Advance, progress
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.evaluation.verdicts import forecast

PAUSE = 0.5
"""Seconds between two updates of the outlook."""


@runtime_checkable
class Stages(Protocol):
    """The part of an evaluation that progress needs: the chain of attacks, and which stages a block goes through."""

    @property
    def chain(self) -> Sequence[str]: ...

    def includes(self, stage: str, block: int) -> bool: ...


class EvaluationProgress:
    """Counts stages of blocks as they begin and end, and every call of the network in between.

    calls  an upper bound on the network's calls for a block, by stage; 0 if they are not counted
    """

    def __init__(
        self,
        calls: Mapping[str, int],
        evaluation: Stages,
        log: VerdictLog,
        blocks: Sequence[Tensor],
        numbers: Sequence[int],
        advance: Advance,
        quiet: bool,
    ) -> None:
        self.calls, self.evaluation, self.log, self.blocks, self.quiet = calls, evaluation, log, blocks, quiet
        self.advance, self.done_before = advance, self.finished(numbers)
        self.done, self.started, self.updated = self.done_before, monotonic(), monotonic()
        self.speed = self.outcome = self.stage = ""
        self.block, self.called, self.stage_started = 0, 0, monotonic()

    def finished(self, numbers: Sequence[int]) -> int:
        """Return the number of images in those of the blocks that are finished."""
        return sum(len(self.blocks[block]) for block in numbers if self.is_finished(block))

    def is_finished(self, block: int) -> bool:
        """Return whether all stages have judged a block."""
        stages = [stage for stage in self.calls if self.evaluation.includes(stage, block)]
        return all(self.log.read(stage, block) is not None for stage in stages)

    def begin(self, block: int, stage: str) -> None:
        self.block, self.stage, self.called, self.stage_started = block, stage, 0, monotonic()

    def end(self, block: int, stage: str) -> None:
        new, self.stage = len(self.blocks[block]) if self.is_finished(block) else 0, ""
        self.done, now = self.done + new, monotonic()
        if new:
            self.speed = f"{(self.done - self.done_before) / max(now - self.started, 1e-9):,.1f} images/s"
        if not self.quiet and now - self.updated > PAUSE:
            self.updated, self.outcome = now, outlook(self.evaluation, self.log, self.blocks)
        self.advance(new, self.words(stage))

    def counted(self, logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the same function; each call of it counts as a step of the present attack."""
        if self.quiet:
            return logits

        def counted(x: Tensor) -> Tensor:
            self.called += 1
            now = monotonic()
            if self.stage and now - self.updated > PAUSE:
                self.updated = now
                self.advance(0, self.words(self.step(now)))
            return logits(x)

        return counted

    def step(self, now: float) -> str:
        """Return the attack, its step, and a bound on the time left for the block: fewer images survive each attack."""
        most = self.calls[self.stage]
        if not most or self.called < 2:
            return self.stage
        left = max(most - self.called, 0) + sum(
            calls
            for stage, calls in self.calls.items()
            if stage != self.stage
            and self.evaluation.includes(stage, self.block)
            and self.log.read(stage, self.block) is None
        )
        seconds = (now - self.stage_started) / self.called * left
        step = f"{self.stage}, step {self.called:,} of {'' if self.called > most else 'at most '}{most:,}"
        return f"{step}, at most {seconds:,.0f} s left for these {len(self.blocks[self.block])} images"

    def words(self, last: str) -> str:
        return "  ".join(word for word in (self.outcome, self.speed, last) if word)


@contextmanager
def evaluation_progress(
    calls: Mapping[str, int],
    evaluation: Stages,
    log: VerdictLog,
    blocks: Sequence[Tensor],
    numbers: Sequence[int],
    quiet: bool,
) -> Iterator[EvaluationProgress]:
    """Show progress while the blocks of these numbers are judged.

    calls  an upper bound on the network's calls for a block, by stage
    """
    total = sum(len(blocks[block]) for block in numbers)
    shown = EvaluationProgress(calls, evaluation, log, blocks, numbers, lambda amount, note="": None, quiet)
    with progress("evaluation", total, "images", shown.done_before, quiet) as advance:
        shown.advance = advance
        yield shown


def outlook(evaluation: Stages, log: VerdictLog, blocks: Sequence[Tensor]) -> str:
    """Return an upper bound on the last attack's score, and the interval that the finished blocks forecast for it.

    The bound counts every image as robust that no attack has broken yet. Both are for the images that the last attack
    includes.
    """
    chain = evaluation.chain
    included = [block for block in range(len(blocks)) if evaluation.includes(chain[-1], block)]
    total, broken = sum(len(blocks[block]) for block in included), 0
    for block in included:
        found = [bits for stage in chain if (bits := log.read(stage, block)) is not None]
        broken += int((~found[-1]).sum()) if found else 0
    judged = log.verdicts(chain[-1], blocks)
    most = f"at most {100 * (1 - broken / total):.1f} %"
    if not len(judged):
        return most
    low, high = forecast(judged.correct, len(judged), total)
    return f"{most}, 95 %: {100 * low:.1f} to {100 * high:.1f}"
