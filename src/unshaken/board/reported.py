"""Published numbers with their sources, disagreements and later corrections."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_foreign_json
from unshaken.base.json_shapes import Each, Items, Number, Or, Whole
from unshaken.board.tasks import Task

METRICS = ("AA", "RA", "CA", "CS-1", "CS-3", "CS-5", "SA")
MISSING = ("placeholder", "copied")
"""Entries of a source that hold no measurement of what they stand for; they are shown without a number."""
_PERCENT = Number(0, 100)
_SPREADS = {f"{metric}_sd?": Number(0) for metric in METRICS}
_NUMBER = {
    **dict.fromkeys(("source", "pretrain", "judged", "network", "eps", "method", "mode"), str),
    **dict.fromkeys(("venue?", "tuning?", "extra?", "note?", "status?", "labels?"), str),
    **{f"{metric}?": _PERCENT for metric in METRICS},
    **_SPREADS,
    "hours?": Number(0),
    "n?": Whole(1),
}
_CORRECTION = {**dict.fromkeys(("date", "what", "why", "source"), str), "about": Each(Or((str, Items(str))))}
_SOURCE = {"title": str, "where": str, "year": Whole(0, 9999), "protocol": str}
SHAPE = {"sources": Each(_SOURCE), "numbers": Items(_NUMBER), "corrections": Items(_CORRECTION)}
"""The shape of a file of published numbers."""


def published(file: Path | None = None) -> dict[str, Any]:
    """Return the sources, the numbers, and the corrections, from the package or from another file of this form."""
    if file is not None:
        found = read_foreign_json(file, SHAPE)
    else:
        found = json.loads(files("unshaken.board").joinpath("reported.json").read_text())
    where = f"{file or 'reported.json'}:"
    for number in found["numbers"]:
        if number["source"] not in found["sources"]:
            raise ValueError(
                f"{where} a published number names the source {number['source']!r}, which is not in the list"
            )
        held = [metric for metric in METRICS if metric in number]
        if bool(held) == (number.get("status") in MISSING):
            about = f"{number['method']} ({number['mode']})"
            raise ValueError(f"{where} {about} has numbers and is called missing, or has none")
    return found


def reported_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a method, way of fine-tuning and source, its modes side by side."""
    rows: dict[str, dict[str, Any]] = {}
    for number in found["numbers"]:
        task = Task(number["pretrain"], number["judged"], f"l∞ {number['eps']}", number["network"])
        tuning, source = number.get("tuning", ""), found["sources"][number["source"]]
        key = f"{task.key}/{number['method']}/{tuning}/{number['source']}"
        row = rows.setdefault(
            key,
            {
                "kind": "reported",
                "task": task,
                "method": number["method"],
                "detail": f"fine-tuned by {tuning}" if tuning else "",
                "source": number["source"],
                "venue": number.get("venue", ""),
                "labels": number.get("labels", "none"),
                "extra": number.get("extra", ""),
                "date": str(source["year"]),
                "cost": {"seconds": 3600 * number["hours"]} if "hours" in number else {},
                "cells": {},
                "notes": [],
            },
        )
        row["cells"][number["mode"]] = cells_of(number)
        if number.get("note") and number["note"] not in row["notes"]:
            row["notes"].append(number["note"])
    for row in rows.values():
        mark_disagreements(row, list(rows.values()))
        row["corrections"] = [k for k, each in enumerate(found["corrections"]) if concerns(each["about"], row)]
    return list(rows.values())


def cells_of(number: dict[str, Any]) -> dict[str, dict[str, Any]]:
    status = {"status": number["status"]} if "status" in number else {}
    if number.get("status") in MISSING:
        return {metric: dict(status) for metric in ("AA", "SA")}
    cells = {}
    for metric in ("AA", "RA", "CA", "SA"):
        if metric in number:
            spread = {"sd": number[f"{metric}_sd"]} if f"{metric}_sd" in number else {}
            runs = {"seeds": number["n"]} if "n" in number else {}
            cells[metric] = {"mean": number[metric]} | spread | runs | status
    levels = {level: number[level] for level in ("CS-1", "CS-3", "CS-5") if level in number}
    if levels:
        cells.setdefault("CA", {})["levels"] = levels
    return cells


def mark_disagreements(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write into each cell what other sources say of the same method, where it is not the same number."""
    alike = [r for r in rows if r is not row and all(r[key] == row[key] for key in ("task", "method", "detail"))]
    for mode, cells in row["cells"].items():
        for metric, cell in cells.items():
            said = [(r["source"], r["cells"].get(mode, {}).get(metric, {}).get("mean")) for r in alike]
            if "mean" in cell:
                others = [[source, value] for source, value in said if value is not None and value != cell["mean"]]
                if others:
                    cell["others"] = others


def concerns(about: dict[str, Any], row: dict[str, Any]) -> bool:
    """Return whether a correction is of a row: everything that it names is the row's."""
    own = {
        "source": row["source"],
        "method": row["method"],
        "pretrain": row["task"].pretrain,
        "judged": row["task"].judged,
        "tuning": row["detail"].removeprefix("fine-tuned by "),
    }
    return all(own.get(key) in (value if isinstance(value, list) else [value]) for key, value in about.items())
