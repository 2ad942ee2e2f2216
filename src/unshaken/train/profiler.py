"""Profiling of training steps: a trace for a browser, and a table of the slowest operations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

from unshaken.base.json_files import write_text
from unshaken.methods.base import Step
from unshaken.train.attack_policy import AttackPolicy

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEventAvg

LEFT_OUT = 2
"""The first steps are not profiled: they allocate memory and select kernels."""
TOP = 10
SPANS = ("views", "attack", "loss", "backward", "optimizer")
"""The spans of a step; the attack lies within the loss. With a GPU they are the CPU's times, which run ahead of it."""


@contextmanager
def profiled(step: Step, folder: Path, steps: int) -> Iterator[Callable[[], None]]:
    """Profile `steps` steps after the first few; call the yielded function after each step.

    folder/profile.json.gz is a trace (for ui.perfetto.dev or chrome://tracing), folder/profile.md the table. With 0
    steps nothing is profiled. No bit of the training changes.
    """
    if steps < 0:
        raise ValueError(f"the number of profiled steps is ≥ 0, for example 20, not {steps}")
    if not steps:
        yield lambda: None
        return
    policy, device = step.policy, next(step.parameters()).device.type
    activities = {ProfilerActivity.CPU} if device == "cpu" else supported_activities()
    plan = schedule(skip_first=LEFT_OUT, wait=0, warmup=1, active=steps, repeat=1)
    step.policy = replace(policy or AttackPolicy(), timed=True)  # pyright: ignore[reportArgumentType]

    traces = []

    def write(trace: profile) -> None:
        traces.append(trace.step_num)
        trace.export_chrome_trace(str(folder / "profile.json.gz"))
        write_text(folder / "profile.md", table(trace.key_averages(), trace.step_num - LEFT_OUT - 1, device))

    try:
        with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
            yield profiler.step
        if not traces:
            message = f"note: there is no profile: it starts after {LEFT_OUT + 1} steps, and the run had fewer"
            print(message, file=sys.stderr)
    finally:
        step.policy = policy


def table(events: Iterable[FunctionEventAvg], steps: int, device: str) -> str:
    """Format the spans of a step and its slowest operations in Markdown."""
    events = [event for event in events if not event.key.startswith("ProfilerStep")]
    spans = {event.key: event for event in events if event.key in SPANS}
    took = (
        (lambda event: event.self_cpu_time_total) if device == "cpu" else (lambda event: event.self_device_time_total)
    )
    operations = sorted((event for event in events if event.key not in spans), key=took, reverse=True)
    total = sum(took(event) for event in events)
    lines = [f"# {steps} steps on {device}", "", f"{total / steps / 1000:.1f} ms per step in operations.", ""]
    lines += ["| span | ms per step, including nested spans |", "| --- | --- |"]
    lines += [f"| {name} | {spans[name].cpu_time_total / steps / 1000:.1f} |" for name in SPANS if name in spans]
    lines += ["", "| operation, by itself | share | ms per step | calls per step |", "| --- | --- | --- | --- |"]
    for event in operations[:TOP]:
        row = (
            event.key,
            f"{took(event) / total:.1%}",
            f"{took(event) / steps / 1000:.1f}",
            f"{event.count / steps:.0f}",
        )
        lines.append(f"| {' | '.join(row)} |")  # pyright: ignore[reportArgumentType, reportCallIssue]
    return "\n".join(lines) + "\n"
