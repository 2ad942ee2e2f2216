"""What lies beside a result in its run's folder: logs, curves, model cards, recipes; shown on the board as copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unshaken.board.collect import Receipt
from unshaken.charts.curve import curve_svg, read_log

MOST = 8 * 2**20
"""Bytes of the largest file that is copied."""
KEPT = {"log.jsonl": "log", "recipe.json": "recipe", "run.json": "end of the run"}


def files_of(receipt: Receipt) -> Iterator[tuple[str, str, bytes]]:
    """Yield a title, a name and the content of each file of the runs of pre-training and of fine-tuning.

    Nothing where a result lies alone. Curves are drawn here from the log: a picture that was sent is not passed on.
    """
    tuned = receipt.file.parent
    if not (tuned / "recipe.json").is_file():
        return
    for part, folder in (("pre-training", tuned.parent), ("fine-tuning", tuned)):
        if (folder / "recipe.json").is_file():
            yield from of_run(part, folder)
    for file in sorted((tuned / "results").glob("log*.txt")):
        if small(file):
            yield "the papers' log", file.name, file.read_bytes()


def of_run(part: str, folder: Path) -> Iterator[tuple[str, str, bytes]]:
    short = part.replace("-", "")
    lines = [line for line in read_log(folder / "log.jsonl") if isinstance(line, dict) and "epoch" in line]
    if len(lines) > 1:
        yield f"{part}: curve", f"{short}-curve.svg", curve_svg(lines, f"The {part} of {folder.name}").encode()
    for name, title in KEPT.items():
        if small(folder / name):
            yield f"{part}: {title}", f"{short}-{name}", (folder / name).read_bytes()
    for file in sorted(folder.glob("*.md")):
        if small(file):
            yield f"{part}: model card", f"{short}-{file.name}", file.read_bytes()


def small(file: Path) -> bool:
    return file.is_file() and file.stat().st_size <= MOST
