"""Observers of a run: they are told what happens, on copies, and can neither change the run nor stop it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class RunInfo:
    """The facts about a run that an observer gets at the start.

    name    the name of the run's folder, which identifies it
    folder  the run's folder, in which an observer may write files of its own
    recipe  the recipe, as in recipe.json
    step    the step at which the run starts: more than 0 if it resumes; lines from this step on will come again
    epochs  the number of epochs of the whole run
    """

    name: str
    folder: Path
    recipe: dict[str, Any]
    step: int
    epochs: int


class Observer(Protocol):
    """The events of a run. Any object with some of these methods is an observer; one that it lacks is not called."""

    def start(self, run: RunInfo) -> None:
        """The run starts, or resumes."""

    def line(self, line: dict[str, float]) -> None:
        """A line of the log: step, epoch, the loss and its terms, lr, images_per_s; gauges where they are measured."""

    def epoch(self, epoch: int) -> None:
        """This many epochs are complete."""

    def checkpoint(self, file: Path, step: int) -> None:
        """A checkpoint after this many steps was written."""

    def end(self, outcome: str, summary: dict[str, Any]) -> None:
        """The run ended: "finished" with what run.json says, "stopped" by a signal, or "failed"."""


class Observers:
    """The observers of one run. One that raises is told nothing more, which is said once; the run goes on."""

    def __init__(self, observers: Iterable[Any] = ()) -> None:
        self.observers = list(observers)
        for each in self.observers:
            if isinstance(each, type) or not any(callable(getattr(each, event, None)) for event in EVENTS):
                given = f"the class {each.__name__}" if isinstance(each, type) else f"a {type(each).__name__}"
                raise ValueError(f"an observer is an object with some of the methods {', '.join(EVENTS)}, not {given}")
        self.started = False

    def tell(self, event: str, *values: Any) -> None:
        """Tell all observers of an event, each with copies of its own. Draws from torch's generator change nothing."""
        for observer in [*self.observers]:
            method = getattr(observer, event, None)
            if method is None:
                continue
            try:
                with torch.random.fork_rng(devices=[]):
                    method(*copy.deepcopy(values))
            except Exception as error:  # an observer is anybody's code
                self.observers.remove(observer)
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                print(
                    f"note: the observer {type(observer).__name__} failed at {event!r} ({reason}): it is told nothing "
                    "more, and the run goes on",
                    file=sys.stderr,
                )

    def start(self, run: RunInfo) -> None:
        """Tell of the start, once in a run that trains in several parts."""
        if not self.started:
            self.started = True
            self.tell("start", run)

    def end(self, outcome: str, summary: dict[str, Any]) -> None:
        """Tell of the end, if the run had started and has not ended."""
        if self.started:
            self.started = False
            self.tell("end", outcome, summary)


EVENTS = ("start", "line", "epoch", "checkpoint", "end")
