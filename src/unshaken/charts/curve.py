"""Training curves from a run's log: the loss and its terms, learning rate, speed and more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unshaken.base.json_files import write_text
from unshaken.charts.svg import Points, panels

NOT_CURVES = ("step", "epoch")
NAMES = {"lr": "learning rate", "images_per_s": "images per second"}


def read_log(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a log.jsonl, up to the first damaged line."""
    lines = []
    for text in file.read_bytes().splitlines() if file.exists() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
    return lines


def curves(lines: list[dict[str, Any]]) -> dict[str, dict[str, Points]]:
    """Return one panel for each number in the log: the loss first, the learning rate and the speed last."""
    keys = dict.fromkeys(key for each in lines for key, value in each.items() if isinstance(value, (int, float)))
    last = [key for key in ("lr", "images_per_s") if key in keys]
    others = [key for key in keys if key not in (*NOT_CURVES, *last, "loss")]
    found: dict[str, dict[str, Points]] = {}
    for key in [*(["loss"] if "loss" in keys else []), *others, *last]:
        points = [(each["epoch"], float(each[key])) for each in lines if isinstance(each.get(key), (int, float))]
        found[NAMES.get(key, key)] = {key: points}
    return found


def curve_svg(lines: list[dict[str, Any]], title: str, alone: bool = True) -> str:
    """Return the chart as SVG. alone: with its own colours, for a file; else for a page that defines them."""
    return panels(curves(lines), "epoch", title, alone=alone)


def write_curve(folder: Path) -> Path | None:
    """Draw a run's log.jsonl as curve.svg in the same folder; None if it has fewer than two points."""
    lines = [each for each in read_log(folder / "log.jsonl") if "epoch" in each]
    if len(lines) < 2:
        return None
    file = folder / "curve.svg"
    write_text(file, curve_svg(lines, f"Training of {folder.name}"))
    return file
