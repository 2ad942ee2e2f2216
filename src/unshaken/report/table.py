"""Results as a table: on a terminal, in Markdown, or as a summary in JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite, nan
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import tyro

from unshaken.base.terminal import console, printable
from unshaken.report.cells import MEASURED, adversary, judged, percent, seconds, spread
from unshaken.report.grouping import ALIKE, differences, grouped, once_each
from unshaken.report.records import TableOptions, cell_records, print_records, result_records

Row = tuple[str, ...]
Kind = Literal["runs", "means", "board"]
CONSTANT, CORRUPTIONS, DIFFERS = "constant", "corruptions", "differs in"
"""Columns that a table has only if they are not empty."""


@dataclass(frozen=True)
class ReportOptions(TableOptions):
    """Show results as a table."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Result files, or folders that are searched for results."""
    means: bool = False
    """Show one row for all seeds of a method and mode: mean ± standard deviation."""
    board: bool = False
    """Show one row for each method, with its modes side by side: means over seeds."""
    out: Path | None = None
    """A Markdown file for the table."""
    html: Path | None = None
    """An HTML file: a page about the runs instead of a table, with scores, curves, examples and provenance."""
    png: Path | None = None
    """A PNG file for a picture of the scores and losses. It needs the extra plots."""
    pdf: Path | None = None
    """A PDF file for the same picture."""


def measured_columns(results: list[dict[str, Any]]) -> Row:
    return tuple(column for column, score in MEASURED.items() if any(score in result for result in results))


def columns(results: list[dict[str, Any]], *before: str) -> Row:
    after = (*extra_columns(results), *measured_columns(results), "attack", "seeds", "seconds")
    return ("method", "mode", "data", "n", *before, *after)


def extra_columns(results: list[dict[str, Any]]) -> Row:
    """Return the columns on constant answers and corruptions, if any result has a value for them."""
    some = any("corruptions" in result and "corruption_accuracy" not in result for result in results)
    return (CONSTANT,) * any("constant" in result for result in results) + (CORRUPTIONS,) * some


def extra_cell(result: dict[str, Any], column: str) -> str:
    """Return the cell of an extra column."""
    if column == CONSTANT:
        return f"{result['constant']['percent']:.1f} %" if "constant" in result else "–"
    if "corruptions" not in result or "corruption_accuracy" in result:
        return "–"
    return ", ".join(
        f"{name} {mean(score['percent'] for score in by.values()):.1f} % (at {', '.join(by)})"
        for name, by in result["corruptions"].items()
    )


def rows(results: list[dict[str, Any]]) -> list[Row]:
    """Return one row for each result: percentages with their counts."""
    return [
        (
            result["method"],
            result["mode"].upper(),
            result["data"]["name"],
            judged(result),
            percent(result["standard"]),
            percent(result["robust"]),
            "{:.1f} to {:.1f}".format(*result["robust"]["interval95"]),
            *(extra_cell(result, column) for column in extra_columns(results)),
            *(spread([result], column) for column in measured_columns(results)),
            adversary(result["evaluation"]),
            "/".join(str(seed) for seed in result["seeds"].values()),
            f"{seconds(result):.0f}".replace("nan", "–"),
        )
        for result in results
    ]


def means(results: list[dict[str, Any]]) -> list[Row]:
    """Return one row for all seeds of a method and mode: mean ± standard deviation over runs, and each run's count.

    A row has results on the same images, under the same attack and of the same recipes, up to the seeds.
    """
    return [
        (
            runs[0]["method"],
            runs[0]["mode"].upper(),
            runs[0]["data"]["name"],
            judged(runs[0]),
            spread(runs, "standard"),
            spread(runs, "robust"),
            *(extra_cell(runs[0], column) for column in extra_columns(results)),
            *(spread(runs, column) for column in measured_columns(results)),
            adversary(runs[0]["evaluation"]),
            ", ".join("/".join(map(str, run["seeds"].values())) for run in runs),
            f"{mean(seconds(run) for run in runs):.0f}".replace("nan", "–"),
        )
        for runs in grouped(results, ALIKE)
    ]


def board(results: list[dict[str, Any]]) -> list[Row]:
    """Return one row for each method: SA and RA of each mode, then n, the seeds, and the seconds of pre-training.

    If a mode was run by several recipes, each has a row.
    """
    return [row for row, _ in _board(results)]


def _board(results: list[dict[str, Any]]) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield each row, with one of its results."""
    shown = ("standard", "robust", *measured_columns(results))
    for runs in grouped(results, ("method", "data", "evaluation", "pretrain")):
        by_mode = [grouped([run for run in runs if run["mode"] == mode], ("finetune",)) for mode in modes(results)]
        for cells in zip_longest(*by_mode, fillvalue=()):
            scores = [spread(cell, score) if cell else "–" for cell in cells for score in shown]
            took = {str(run["seeds"]["pretrain"]): run["seconds"]["pretrain"] for cell in cells for run in cell}
            spent = mean(nan if value is None else value for value in took.values())
            tail = (judged(runs[0]), ", ".join(sorted(took)), f"{spent:.0f}".replace("nan", "–"))
            yield (runs[0]["method"], *scores, *tail), next(cell[0] for cell in cells if cell)


def modes(results: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the modes of the results, slf, alf and aff first."""
    order = {mode: k for k, mode in enumerate(("slf", "alf", "aff"))}
    return tuple(sorted({result["mode"] for result in results}, key=lambda mode: (order.get(mode, len(order)), mode)))


def board_columns(results: list[dict[str, Any]]) -> Row:
    shown = ("SA", "RA", *measured_columns(results))
    scores = (f"{mode.upper()} {score}" for mode in modes(results) for score in shown)
    return ("method", *scores, "n", "seeds", "seconds")


BOARD_LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; mean ± standard deviation over runs "
    "(number of correct ones of n in each run); seeds: of pre-training; seconds: mean, of pre-training only."
)


def table_of(results: list[dict[str, Any]], kind: Kind = "runs") -> tuple[Row, list[Row], str]:
    """Return columns, rows and a legend. Rows that look alike get a column that says how they differ."""
    results = results if kind == "runs" else once_each(results)
    if kind == "board":
        names, shared = board_columns(results), (0, -3, -2)
        lines, words = list(_board(results)), legend(BOARD_LEGEND, results, ())
    else:
        of_runs = kind == "runs"
        names, shared = columns(results, "SA", "RA", *("RA 95 %",) * of_runs), (0, 1, 2, 3, -3, -2)
        body = rows(results) if of_runs else means(results)
        lines = list(zip(body, results if of_runs else [runs[0] for runs in grouped(results, ALIKE)], strict=True))
        words = legend(LEGEND if of_runs else MEAN_LEGEND, results)
    cells = []
    for row, result in lines:
        alike = [other for its, other in lines if all(its[k] == row[k] for k in shared)]
        cells.append(differences(result, alike))
    body = [row for row, _ in lines]
    if not any(cells):
        return names, body, words
    with_differences = [(*row, cell or "–") for row, cell in zip(body, cells, strict=True)]
    return (*names, DIFFERS), with_differences, f"{words} {EXTRA_LEGEND[DIFFERS]}"


def legend(words: str, results: list[dict[str, Any]], extra: Row | None = None) -> str:
    extra = extra_columns(results) if extra is None else extra
    return " ".join([words, *(EXTRA_LEGEND[column] for column in (*extra, *measured_columns(results)))])


def markdown(results: list[dict[str, Any]], kind: Kind = "runs") -> str:
    """Return a table in Markdown, with its legend below."""
    return page(*table_of(results, kind))


def page(columns: Row, body: list[Row], legend: str) -> str:
    """Return columns, rows and a legend in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return "\n".join(lines) + "\n\n" + legend + "\n"


MEAN_LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; mean ± standard deviation over runs "
    "(number of correct ones of n in each run); seeds: of pre-training/fine-tuning/evaluation in each run; "
    "seconds: mean of the sum of the three; rows of one pre-training each include its seconds."
)
LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; (number of correct ones of n); "
    "RA 95 %: score interval of that count; seeds: of pre-training/fine-tuning/evaluation; "
    "seconds: the sum of the three; rows of one pre-training each include its seconds."
)


EXTRA_LEGEND = {
    CONSTANT: "constant: accuracy of always answering the most frequent class, clean or attacked.",
    CORRUPTIONS: "corruptions: the mean over the named severities.",
    DIFFERS: "differs in: the fields in which rows that look alike differ.",
    "AA": "AA: under AutoAttack, on all these images, or on random ones if a smaller number is given.",
    "CA": "CA: mean accuracy over the fifteen common corruptions and five severities.",
}


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each result's main numbers as JSON. `seconds` is of pre-training, fine-tuning and evaluation together."""
    return [
        {
            "method": result["method"],
            "mode": result["mode"],
            "n_test": result["standard"]["n"],
            "standard_correct": result["standard"]["correct"],
            "robust_correct": result["robust"]["correct"],
            "seconds": round(seconds(result), 1) if isfinite(seconds(result)) else None,
        }
        | (
            {f"autoattack_{key}": result["autoattack"][key] for key in ("correct", "n")}
            if "autoattack" in result
            else {}
        )
        | ({"corruption_percent": result["corruption_accuracy"]["mean"]} if "corruption_accuracy" in result else {})
        for result in results
    ]


def show(results: list[dict[str, Any]], kind: Kind = "runs", form: TableOptions = TableOptions()) -> None:
    """Print the table of results, or its numbers as JSON or CSV."""
    if form.for_programs:
        print_records(result_records(results if kind == "runs" else once_each(results), kind), form)
    else:
        display(*table_of(results, kind))


def display(columns: Row, body: list[Row], legend: str, form: TableOptions = TableOptions()) -> None:
    """Print a table on standard output: drawn on a terminal, in Markdown in a pipe or a file, or as JSON or CSV."""
    if form.for_programs:
        print_records(cell_records(columns, body), form)
        return
    if not sys.stdout.isatty():
        print(page(columns, body, legend), end="")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=legend, caption_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("n", "seconds") else "left")
    for row in body:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)
