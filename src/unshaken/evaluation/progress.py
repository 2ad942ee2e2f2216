"""Progress of an evaluation on stderr: bound and forecast of the accuracy, speed, network calls."""

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
"""The least number of seconds between two updates of the text."""


@runtime_checkable
class Stages(Protocol):
    """The part of an evaluation that progress needs: attacks in order, and the stages of each block."""

    @property
    def chain(self) -> Sequence[str]: ...

    def includes(self, stage: str, block: int) -> bool: ...


class EvaluationProgress:
    """Counts stages of blocks as they begin and end, and every call of the network in between.

    calls          for each stage, the most calls of the network for a block; 0 if they are not counted
    blocks         the indices of the images of each block
    block_numbers  the numbers of the blocks to judge
    """

    def __init__(
        self,
        calls: Mapping[str, int],
        evaluation: Stages,
        log: VerdictLog,
        blocks: Sequence[Tensor],
        block_numbers: Sequence[int],
        advance: Advance,
        quiet: bool,
    ) -> None:
        self.calls, self.evaluation, self.log, self.blocks, self.quiet = calls, evaluation, log, blocks, quiet
        self.advance = advance
        self.done = self.done_before = self.finished_images(block_numbers)
        self.speed = self.outlook = self.stage = ""
        self.block = self.calls_made = 0
        self.stale = False
        self.started = self.updated = self.stage_started = monotonic()

    def finished_images(self, block_numbers: Sequence[int]) -> int:
        """Return the number of images in the finished ones of these blocks."""
        return sum(len(self.blocks[block]) for block in block_numbers if self.is_finished(block))

    def is_finished(self, block: int) -> bool:
        """Return whether all stages have judged a block."""
        stages = [stage for stage in self.calls if self.evaluation.includes(stage, block)]
        return all(self.log.read(stage, block) is not None for stage in stages)

    def begin(self, block: int, stage: str) -> None:
        self.block, self.stage, self.calls_made, self.stage_started = block, stage, 0, monotonic()

    def end(self, block: int, stage: str) -> None:
        self.stage = ""
        new = len(self.blocks[block]) if self.is_finished(block) else 0
        self.done, now = self.done + new, monotonic()
        if new:
            self.speed = f"{(self.done - self.done_before) / max(now - self.started, 1e-9):,.1f} images/s"
        self.stale = True
        if not self.quiet and now - self.updated > PAUSE:
            self.look(now)
        self.advance(new, self.text(stage))

    def look(self, now: float) -> None:
        """Update the outlook if a stage has ended since it was made."""
        self.updated = now
        if self.stale:
            self.outlook, self.stale = outlook(self.evaluation, self.log, self.blocks), False

    def counted(self, logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the same function; each call of it is counted for the current attack."""
        if self.quiet:
            return logits

        def count_and_call(x: Tensor) -> Tensor:
            self.calls_made += 1
            now = monotonic()
            if self.stage and now - self.updated > PAUSE:
                self.look(now)
                self.advance(0, self.text(self.attack_text(now)))
            return logits(x)

        return count_and_call

    def attack_text(self, now: float) -> str:
        """Return the attack, the network's calls in it, and the most time left for the block."""
        most = self.calls[self.stage]
        if not most or self.calls_made < 2:  # one call is too few for a speed
            return self.stage
        left = max(most - self.calls_made, 0) + sum(
            calls
            for stage, calls in self.calls.items()
            if stage != self.stage
            and self.evaluation.includes(stage, self.block)
            and self.log.read(stage, self.block) is None
        )
        # later attacks have fewer images, so their calls take no longer than these
        seconds = (now - self.stage_started) / self.calls_made * left
        call = f"{self.stage}, call {self.calls_made:,}" + ("" if self.calls_made > most else f" of at most {most:,}")
        return f"{call}, at most {seconds:,.0f} s left for these {len(self.blocks[self.block])} images"

    def text(self, last: str) -> str:
        return "  ".join(phrase for phrase in (self.outlook, self.speed, last) if phrase)


@contextmanager
def evaluation_progress(
    calls: Mapping[str, int],
    evaluation: Stages,
    log: VerdictLog,
    blocks: Sequence[Tensor],
    block_numbers: Sequence[int],
    quiet: bool,
) -> Iterator[EvaluationProgress]:
    """Show progress while the blocks of these numbers are judged. The arguments are those of `EvaluationProgress`."""
    total = sum(len(blocks[block]) for block in block_numbers)
    # the real `advance` can be made only when `done_before` is there
    shown = EvaluationProgress(calls, evaluation, log, blocks, block_numbers, lambda amount, note="": None, quiet)
    with progress("evaluation", total, "images", shown.done_before, quiet) as advance:
        shown.advance = advance
        yield shown


def outlook(evaluation: Stages, log: VerdictLog, blocks: Sequence[Tensor]) -> str:
    """Return an upper bound on the accuracy after the last attack, and its interval forecast from finished blocks.

    The bound counts every image as robust that no attack has broken yet. Both are for the blocks that go through the
    last attack.
    """
    chain = evaluation.chain
    included = [block for block in range(len(blocks)) if evaluation.includes(chain[-1], block)]
    total, broken = sum(len(blocks[block]) for block in included), 0
    for block in included:
        found = [bits for stage in chain if (bits := log.read(stage, block)) is not None]
        broken += int((~found[-1]).sum()) if found else 0  # an attack's bits are of the survivors of all so far
    judged = log.verdicts(chain[-1], blocks)
    most = f"accuracy at most {100 * (1 - broken / total):.1f} %"
    if not len(judged):
        return most
    low, high = forecast(judged.correct, len(judged), total)
    return f"{most}, {100 * low:.1f} to {100 * high:.1f} % by a 95 % interval"
