"""What an evaluation shows while it runs: how high its last score can still be, where it will end, how fast it goes."""

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
"""Seconds between two looks at what will come of it."""


@runtime_checkable
class Asked(Protocol):
    """What is shown goes by the attacks in their order, and by which blocks a part is for."""

    @property
    def chain(self) -> Sequence[str]: ...

    def asks(self, part: str, block: int) -> bool: ...


class EvaluationProgress:
    """Told when a part of a block begins and ends, and of every call of the network in between.

    calls  how often a part asks the network at most, by its name; 0 where that is not counted
    """

    def __init__(
        self,
        calls: Mapping[str, int],
        asked: Asked,
        notes: VerdictLog,
        blocks: Sequence[Tensor],
        chosen: Sequence[int],
        advance: Advance,
        quiet: bool,
    ) -> None:
        self.calls, self.asked, self.notes, self.blocks, self.quiet = calls, asked, notes, blocks, quiet
        self.advance, self.before = advance, self.finished(chosen)
        self.done, self.begun, self.noted = self.before, monotonic(), monotonic()
        self.speed = self.outcome = self.part = ""
        self.block, self.called, self.since = 0, 0, monotonic()

    def finished(self, chosen: Sequence[int]) -> int:
        """Images of those of the blocks that are done."""
        return sum(len(self.blocks[block]) for block in chosen if self.over(block))

    def over(self, block: int) -> bool:
        return all(self.notes.read(part, block) is not None for part in self.calls if self.asked.asks(part, block))

    def begin(self, block: int, part: str) -> None:
        self.block, self.part, self.called, self.since = block, part, 0, monotonic()

    def end(self, block: int, part: str) -> None:
        new, self.part = len(self.blocks[block]) if self.over(block) else 0, ""
        self.done, now = self.done + new, monotonic()
        if new:
            self.speed = f"{(self.done - self.before) / max(now - self.begun, 1e-9):,.1f} images/s"
        if not self.quiet and now - self.noted > PAUSE:
            self.noted, self.outcome = now, outlook(self.asked, self.notes, self.blocks)
        self.advance(new, self.note(part))

    def counted(self, logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The same function; each call is a step of the attack that is going on."""
        if self.quiet:
            return logits

        def counted(x: Tensor) -> Tensor:
            self.called += 1
            now = monotonic()
            if self.part and now - self.noted > PAUSE:
                self.noted = now
                self.advance(0, self.note(self.step(now)))
            return logits(x)

        return counted

    def step(self, now: float) -> str:
        """The attack, its step, and what is left of the block: at most, for images that fall are attacked no more."""
        most = self.calls[self.part]
        if not most or self.called < 2:
            return self.part
        left = max(most - self.called, 0) + sum(
            calls
            for part, calls in self.calls.items()
            if part != self.part and self.asked.asks(part, self.block) and self.notes.read(part, self.block) is None
        )
        seconds = (now - self.since) / self.called * left
        step = f"{self.part}, step {self.called:,} of {'' if self.called > most else 'at most '}{most:,}"
        return f"{step}, at most {seconds:,.0f} s left for these {len(self.blocks[self.block])} images"

    def note(self, last: str) -> str:
        return "  ".join(word for word in (self.outcome, self.speed, last) if word)


@contextmanager
def live(
    calls: Mapping[str, int],
    asked: Asked,
    notes: VerdictLog,
    blocks: Sequence[Tensor],
    chosen: Sequence[int],
    quiet: bool,
) -> Iterator[EvaluationProgress]:
    """To be told of the parts of each block, and of the calls that attacks make.

    calls  how often a part asks the network at most, by its name
    """
    total = sum(len(blocks[block]) for block in chosen)
    silent = EvaluationProgress(calls, asked, notes, blocks, chosen, lambda amount, note="": None, quiet)
    with progress("evaluation", total, "images", silent.before, quiet) as advance:
        silent.advance = advance
        yield silent


def outlook(asked: Asked, notes: VerdictLog, blocks: Sequence[Tensor]) -> str:
    """At most so many % can hold in the end: all but those that fell by now; and where the finished blocks point.

    Of an attack that is for some of the blocks alone, both are of their images.
    """
    chain = asked.chain
    mine = [block for block in range(len(blocks)) if asked.asks(chain[-1], block)]
    total, fallen = sum(len(blocks[block]) for block in mine), 0
    for block in mine:
        found = [bits for part in chain if (bits := notes.read(part, block)) is not None]
        fallen += int((~found[-1]).sum()) if found else 0
    judged = notes.collected(chain[-1], blocks)
    most = f"at most {100 * (1 - fallen / total):.1f} %"
    if not len(judged):
        return most
    low, high = forecast(judged.correct, len(judged), total)
    return f"{most}, 95 %: {100 * low:.1f} to {100 * high:.1f}"
