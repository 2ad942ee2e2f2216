"""What an exam shows while it runs: how high its last score can still be, where it will end, how fast it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from torch import Tensor

from unshaken.base.progress import progress
from unshaken.evaluate.notes import Notes
from unshaken.evaluate.verdicts import forecast

PAUSE = 0.5
"""Seconds between two looks at what will come of it."""


@contextmanager
def live(
    parts: Sequence[str],
    chain: Sequence[str],
    notes: Notes,
    blocks: Sequence[Tensor],
    chosen: Sequence[int],
    quiet: bool,
) -> Iterator[Callable[[int, str], None]]:
    """To be told of each part of a block that is done.

    chain  the parts from the clean images to the attack that has the last word
    """

    def finished(block: int) -> bool:
        return all(notes.read(part, block) is not None for part in parts)

    total, begun = sum(len(blocks[block]) for block in chosen), monotonic()
    before = sum(len(blocks[block]) for block in chosen if finished(block))
    done, noted, speed, outcome = before, begun, "", ""

    with progress("exam", total, "images", before, quiet) as advance:

        def tell(block: int, part: str) -> None:
            nonlocal done, noted, speed, outcome
            new = len(blocks[block]) if finished(block) else 0
            done, now = done + new, monotonic()
            if new:
                speed = f"{(done - before) / max(now - begun, 1e-9):,.1f} images/s"
            if not quiet and now - noted > PAUSE:
                noted, outcome = now, outlook(chain, notes, blocks)
            advance(new, "  ".join(word for word in (outcome, speed, part) if word))

        yield tell


def outlook(chain: Sequence[str], notes: Notes, blocks: Sequence[Tensor]) -> str:
    """At most so many % can hold in the end: all but those that fell by now; and where the finished blocks point."""
    total, fallen = sum(map(len, blocks)), 0
    for block in range(len(blocks)):
        found = [bits for part in chain if (bits := notes.read(part, block)) is not None]
        fallen += int((~found[-1]).sum()) if found else 0
    judged = notes.collected(chain[-1], blocks)
    most = f"at most {100 * (1 - fallen / total):.1f} %"
    if not len(judged):
        return most
    low, high = forecast(judged.correct, len(judged), total)
    return f"{most}, 95 %: {100 * low:.1f} to {100 * high:.1f}"
