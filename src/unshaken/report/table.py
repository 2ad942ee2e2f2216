"""Results as a table: for a terminal, for Markdown, and as a summary in JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from unshaken.base.files import read_json

COLUMNS = ("method", "mode", "data", "n", "SA", "RA", "RA 95 %", "attack", "seeds", "seconds")


def results_in(paths: list[Path]) -> list[dict[str, Any]]:
    """Every result.json at or below the paths, in the order of the paths and then of their names."""
    files = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}")
        files += [path] if path.is_file() else sorted(path.rglob("result.json"))
    if not files:
        raise ValueError(f"there is no result.json in {', '.join(map(str, paths))}; `unshaken evaluate RUN` writes one")
    return [read_json(file) for file in files]


def rows(results: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row a result. Percentages stand beside their counts: correct/n."""
    return [
        (
            result["method"],
            result["mode"].upper(),
            result["data"]["name"],
            str(result["standard"]["n"]),
            share(result["standard"]),
            share(result["robust"]),
            "{:.1f} to {:.1f}".format(*result["robust"]["interval95"]),
            attack(result["exam"]["attack"]),
            "/".join(str(seed) for seed in result["seeds"].values()),
            f"{sum(value or 0 for value in result['seconds'].values()):.0f}",
        )
        for result in results
    ]


def share(score: dict[str, Any]) -> str:
    return f"{score['percent']:.1f} % ({score['correct']})"


def attack(how: dict[str, Any]) -> str:
    """PGD-20, ε in 255ths where that is how it was meant."""
    eps = how["ball"]["eps"]
    of_255 = round(eps * 255)
    size = f"{of_255}/255" if abs(eps * 255 - of_255) < 1e-6 else f"{eps:g}"
    norm = {"Linf": "l∞", "L2": "l2"}[how["ball"]["type"]]
    return f"PGD-{how['steps']} {norm} {size}"


def markdown(results: list[dict[str, Any]]) -> str:
    """A table with a line under it that says what its columns mean."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(results)]
    return "\n".join(lines) + "\n\n" + LEGEND + "\n"


LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; (number of correct ones of n); "
    "RA 95 %: score interval of that count; seeds: of pre-training/fine-tuning/exam; "
    "seconds: of the three together, the pre-training being shared by its rows."
)


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The few numbers of each result that a program wants. `seconds` is of pre-training, fine-tuning and exam."""
    return [
        {
            "method": result["method"],
            "mode": result["mode"],
            "n_test": result["standard"]["n"],
            "standard_correct": result["standard"]["correct"],
            "robust_correct": result["robust"]["correct"],
            "seconds": round(sum(value or 0 for value in result["seconds"].values()), 1),
        }
        for result in results
    ]


def show(results: list[dict[str, Any]]) -> None:
    """On standard output: as a table on a terminal, as Markdown in a pipe or a file."""
    if not sys.stdout.isatty():
        print(markdown(results), end="")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(caption=LEGEND, caption_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("n", "seconds") else "left")
    for row in rows(results):
        table.add_row(*row)
    Console().print(table)
