"""Tables for other programs: records of plain numbers, written as JSON or CSV"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean, stdev
from typing import Any

from unshaken.report.cells import MEASURED, adversary, seconds
from unshaken.report.grouping import ALIKE, grouped

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How a table is written: drawn on a terminal and Markdown in a pipe, or for other programs as JSON or CSV."""

    json: bool = False
    """Print the table as JSON: a list of objects with numbers in place of text."""
    csv: bool = False
    """Print the table as CSV: one header line, and a number in each cell."""

    @property
    def for_programs(self) -> bool:
        """Return whether JSON or CSV is asked for. ValueError if both are."""
        if self.json and self.csv:
            raise ValueError("--json and --csv are two forms of one table: give one of them")
        return self.json or self.csv


def print_records(records: Sequence[Record], options: TableOptions) -> None:
    """Print records as JSON or CSV on standard output. In CSV a nested value has a dotted name: sa.percent."""
    if options.json:
        print(json.dumps(list(records), indent=1, ensure_ascii=False, allow_nan=False))
        return
    flat = [dict(_flat(record)) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    writer = csv.DictWriter(sys.stdout, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return the innermost values by dotted names; a list of numbers or words becomes one cell."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list):
        return [(name, " ".join(str(each) for each in value))]
    return [(name, "" if value is None else value)]


def result_records(results: list[dict[str, Any]], kind: str = "runs") -> list[Record]:
    """Return the records of results: one for each, or one for all seeds of a method and mode (means and board)."""
    if kind == "runs":
        return [result_record(result) for result in results]
    return [mean_record(runs) for runs in grouped(results, ALIKE)]


def result_record(result: dict[str, Any]) -> Record:
    """Return the numbers of one result. Accuracies are in percent; intervals are of 95 %."""
    record = _head(result) | {name: _score(result[key]) for name, key in _scores(result).items()}
    if "constant" in result:
        record["constant"] = result["constant"]["percent"]
    if "corruption_accuracy" in result:
        record["ca"] = {"percent": result["corruption_accuracy"]["mean"]}
    if "corruptions" in result:
        levels = {name: {k: s["percent"] for k, s in by.items()} for name, by in result["corruptions"].items()}
        record["corruptions"] = levels
    total = seconds(result)
    record |= {"seeds": result["seeds"], "seconds": round(total, 2) if isfinite(total) else None}
    return record | {"weights": result["weights"]}


def mean_record(runs: list[dict[str, Any]]) -> Record:
    """Return mean and standard deviation over the seeds of one method and mode, with each run's value."""
    record = _head(runs[0])
    for name, key in _scores(runs[0]).items():
        if all(key in run for run in runs):
            record[name] = _spread([run[key]["percent"] for run in runs])
    if all("corruption_accuracy" in run for run in runs):
        record["ca"] = _spread([run["corruption_accuracy"]["mean"] for run in runs])
    return record | {"seeds": ["/".join(map(str, run["seeds"].values())) for run in runs]}


def _head(result: dict[str, Any]) -> Record:
    names = {"method": result["method"], "mode": result["mode"], "data": result["data"]["name"]}
    return names | {"n": result["robust"]["n"], "attack": adversary(result["evaluation"])}


def _scores(result: dict[str, Any]) -> dict[str, str]:
    """Return the key of each score that counts images, by its name in a record."""
    return {"sa": "standard", "ra": "robust"} | ({"aa": MEASURED["AA"]} if MEASURED["AA"] in result else {})


def _score(score: dict[str, Any]) -> Record:
    low, high = score["interval95"]
    return {"percent": score["percent"], "correct": score["correct"], "n": score["n"], "low": low, "high": high}


def _spread(values: list[float]) -> Record:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def cell_records(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[Record]:
    """Return the rows of a table of text as records. A cell that is a number becomes one, and – becomes null."""
    return [{name: _value(cell) for name, cell in zip(columns, row, strict=True)} for row in body]


def _value(cell: str) -> Any:
    if cell in ("–", ""):
        return None
    if re.fullmatch(r"-?\d+", cell):
        return int(cell)
    return float(cell) if re.fullmatch(r"-?\d+\.\d+", cell) else cell
