"""Trials: several ways to do the same work are timed in turn, and the fastest is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 2.0
"""The most seconds of a trial, except that a measurement which has begun is finished."""
SHARE = 0.01
"""The largest share of a run's expected time that its trial may take."""
LONGER, PATIENCE = 10.0, 1 / 3600
"""The most seconds of a patient trial, and the largest share of the run, where the first call takes a sixteenth of
SECONDS or more: two images are then all that would fit into SECONDS, and say little about a batch."""
PAIRS = 3
"""Measurements of each of two ways, in turn; the shortest counts, because other programs only lengthen them."""
GAIN = 0.1
"""The share of the time that another way has to save, or the one in use stays. Less may be noise on a busy machine, and
the choice, and with it the last bits, would differ from one run to the next."""
LEAST = 2
"""The fewest images of a measurement: a batch norm needs two."""

Cost = Callable[[str, int], float]
"""Do a part of the work on a number of images, and return its cost in seconds."""
Change = Callable[[T], T]
"""A function from a way to one that differs in a single respect."""


@dataclass(frozen=True)
class Found(Generic[T]):
    """The result of a trial.

    best     the fastest way
    faster   seconds of the first way / seconds of the fastest, multiplied over the comparisons
    images   images of the first comparison, which may have more than the others
    seconds  seconds of the whole trial
    tried    the number of comparisons that were made, and of those that were wanted
    expected seconds of the whole run in the first way, by its first part
    """

    best: T
    faster: float
    images: int
    seconds: float
    tried: tuple[int, int]
    expected: float = 0.0


def fastest(
    first: T,
    changes: Sequence[tuple[str, Change[T]]],
    prepare: Callable[[T], Cost],
    most: int,
    repeats: float,
    limit: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    ready: Callable[[float], object] = lambda expected: None,
    patient: bool = False,
) -> Found[T]:
    """Start from a way, try one change after the other, and keep each that saves more than GAIN.

    changes  each with the part of the work by which it is judged; a way that comes back unchanged is not tried. The
             first one may take half of the time, because some ways need many images to show what they save
    prepare  makes a way ready; its first call is not counted, since it allocates memory
    most     the images of a step: measurements have fewer if these take too long
    repeats  how often the run does the first part, counted by images; SHARE of this time bounds the trial too
    limit    seconds
    ready    is told the seconds that the run is expected to take, before the first comparison; it may compile what a
             change needs, and its time does not count
    patient  take up to LONGER where the first call is slow
    """
    began = clock()
    now, cost = first, prepare(first)
    once = cost(changes[0][0], LEAST) if changes else 0.0
    if patient and clock() - began > limit / 16:
        limit = max(limit, min(LONGER, PATIENCE * repeats * once / LEAST))
    if not changes or clock() - began > limit / 4:  # no comparison would fit
        return Found(now, 1.0, LEAST, clock() - began, (0, len(changes)), repeats * once / LEAST)
    once = cost(changes[0][0], LEAST)
    for part in {part for part, _ in changes} - {changes[0][0]}:
        cost(part, LEAST)
    expected = repeats * once / LEAST
    limit = min(limit, SHARE * expected)
    paused = clock()
    ready(expected)
    began += clock() - paused

    def images_in(seconds: float) -> int:
        images = LEAST
        while 2 * images <= most and 2 * images * once / LEAST <= seconds:
            images *= 2
        return images

    # the other way has a first call beside its first measurement, and the present one a measurement: three at least
    images = many = images_in((limit / 2 - (clock() - began)) / 3)
    until = began + limit / 2
    faster, tried, wanted = 1.0, 0, len(changes)
    for part, change in changes:
        other = change(now)
        if other == now:
            wanted -= 1
            continue
        if clock() - began + 3 * once * images / LEAST > limit:
            continue
        tried, other_cost = tried + 1, prepare(other)
        other_cost(part, images)
        theirs, mine = compare(part, other_cost, cost, images, until, clock)
        if theirs < (1 - GAIN) * mine:
            now, cost, faster = other, other_cost, faster * mine / theirs
        if tried == 1:
            left = (limit - (clock() - began)) / max(1, (len(changes) - 1) * (2 * PAIRS + 1))
            images, until = images_in(left), began + limit
    return Found(now, faster, many, clock() - began, (tried, wanted), expected)


def compare(part: str, a: Cost, b: Cost, images: int, until: float, clock: Callable[[], float]) -> tuple[float, float]:
    """Return the least cost of both, measured in turn: once at least, and no longer than `until`."""
    found: list[tuple[float, float]] = []
    while not found or (len(found) < PAIRS and clock() < until):
        found.append((a(part, images), b(part, images)))
    return min(one for one, _ in found), min(other for _, other in found)
