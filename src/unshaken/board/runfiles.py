"""Copies of a run's other files for the board: logs, curves, model cards, recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unshaken.board.collect import Receipt
from unshaken.charts.curve import curve_svg, read_log

MOST = 8 * 2**20
"""The largest size of a file that is copied, in bytes."""
COPIED = {"log.jsonl": "log", "recipe.json": "recipe", "run.json": "end of the run"}


def files_of(receipt: Receipt) -> Iterator[tuple[str, str, bytes]]:
    """Yield a title, a name and the content of each file of the runs of pre-training and of fine-tuning.

    It yields nothing for a result without its run. Curves are drawn from the log: pictures from others are not copied.
    """
    tuned = receipt.file.parent
    if not (tuned / "recipe.json").is_file():
        return
    for phase, folder in (("pre-training", tuned.parent), ("fine-tuning", tuned)):
        if (folder / "recipe.json").is_file():
            yield from of_run(phase, folder)
    for file in sorted((tuned / "results").glob("log*.txt")):
        if small(file):
            yield "the papers' log", file.name, file.read_bytes()


def of_run(phase: str, folder: Path) -> Iterator[tuple[str, str, bytes]]:
    short = phase.replace("-", "")
    lines = [line for line in read_log(folder / "log.jsonl") if isinstance(line, dict) and "epoch" in line]
    if len(lines) > 1:
        yield f"{phase}: curve", f"{short}-curve.svg", curve_svg(lines, f"The {phase} of {folder.name}").encode()
    for name, title in COPIED.items():
        if small(folder / name):
            yield f"{phase}: {title}", f"{short}-{name}", (folder / name).read_bytes()
    for file in sorted(folder.glob("*.md")):
        if small(file):
            yield f"{phase}: model card", f"{short}-{file.name}", file.read_bytes()


def small(file: Path) -> bool:
    return file.is_file() and file.stat().st_size <= MOST
