"""Results as a table: for a terminal, for Markdown, and as a summary in JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import tyro

from unshaken.base.terminal import console, printable
from unshaken.report.grouping import ALIKE, differences, grouped, once_each

Row = tuple[str, ...]
Kind = Literal["runs", "means", "board"]
MORE = {"AA": "autoattack", "CA": "corruption_accuracy"}
"""Columns that are there if any result has them."""
CONSTANT, CORRUPTIONS, DIFFERS = "constant", "corruptions", "differs in"
"""Columns that are there if they have anything to say."""


@dataclass(frozen=True)
class ReportOptions:
    """Results as a table."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders in which all results are looked for, or result files."""
    means: bool = False
    """One row for all seeds of a method and mode: mean ± standard deviation."""
    board: bool = False
    """One row a method, its modes side by side: means over seeds."""
    out: Path | None = None
    """A file for the same table in Markdown."""
    html: Path | None = None
    """A file for one self-contained page about the runs, instead of a table: scores, curves, examples, provenance."""
    png: Path | None = None
    """A file for a picture of their scores and losses (extra plots)."""
    pdf: Path | None = None
    """The same as a PDF."""


def more(results: list[dict[str, Any]]) -> Row:
    return tuple(column for column, score in MORE.items() if any(score in result for result in results))


def columns_of(results: list[dict[str, Any]], *before: str) -> Row:
    return ("method", "mode", "data", "n", *before, *also(results), *more(results), "attack", "seeds", "seconds")


def also(results: list[dict[str, Any]]) -> Row:
    """Columns about the scores that are there if any result has something for them."""
    some = any("corruptions" in result and "corruption_accuracy" not in result for result in results)
    return (CONSTANT,) * any("constant" in result for result in results) + (CORRUPTIONS,) * some


def also_of(result: dict[str, Any], column: str) -> str:
    """The cell of such a column."""
    if column == CONSTANT:
        return f"{result['constant']['percent']:.1f} %" if "constant" in result else "–"
    if "corruptions" not in result or "corruption_accuracy" in result:
        return "–"
    return ", ".join(
        f"{name} {mean(score['percent'] for score in by.values()):.1f} % (at {', '.join(by)})"
        for name, by in result["corruptions"].items()
    )


def rows(results: list[dict[str, Any]]) -> list[Row]:
    """One row a result. Percentages stand beside their counts: correct/n."""
    return [
        (
            result["method"],
            result["mode"].upper(),
            result["data"]["name"],
            judged(result),
            share(result["standard"]),
            share(result["robust"]),
            "{:.1f} to {:.1f}".format(*result["robust"]["interval95"]),
            *(also_of(result, column) for column in also(results)),
            *(spread([result], column) for column in more(results)),
            adversary(result["evaluation"]),
            "/".join(str(seed) for seed in result["seeds"].values()),
            f"{seconds(result):.0f}".replace("nan", "–"),
        )
        for result in results
    ]


def judged(result: dict[str, Any]) -> str:
    """How many images; of a result that is a part, of how many."""
    score = result["robust"]
    return f"{score['n']} of {score['of']}" if "of" in score else str(score["n"])


def share(score: dict[str, Any]) -> str:
    return f"{score['percent']:.1f} % ({score['correct']})"


def adversary(evaluation: dict[str, Any]) -> str:
    """The attack of RA; of a network without gradients, Square."""
    words = attack(evaluation["attack"])
    if evaluation.get("attacks") == "queries":
        return f"Square-{evaluation.get('queries', 1000)} {words.partition(' ')[2]}"
    return words


def attack(how: dict[str, Any]) -> str:
    """PGD-20, ε in 255ths where that is how it was meant."""
    eps = how["ball"]["eps"]
    of_255 = round(eps * 255)
    size = f"{of_255}/255" if abs(eps * 255 - of_255) < 1e-6 else f"{eps:g}"
    norm = {"Linf": "l∞", "L2": "l2"}[how["ball"]["type"]]
    return f"PGD-{how['steps']} {norm} {size}"


def means(results: list[dict[str, Any]]) -> list[Row]:
    """One row for all seeds of a method and mode: mean ± standard deviation over runs, and each run's count.

    Only results on the same images, under the same attack and of the same recipes but for the seeds are taken together.
    """
    return [
        (
            runs[0]["method"],
            runs[0]["mode"].upper(),
            runs[0]["data"]["name"],
            judged(runs[0]),
            spread(runs, "standard"),
            spread(runs, "robust"),
            *(also_of(runs[0], column) for column in also(results)),
            *(spread(runs, column) for column in more(results)),
            adversary(runs[0]["evaluation"]),
            ", ".join("/".join(map(str, run["seeds"].values())) for run in runs),
            f"{mean(seconds(run) for run in runs):.0f}".replace("nan", "–"),
        )
        for runs in grouped(results, ALIKE)
    ]


def board(results: list[dict[str, Any]]) -> list[Row]:
    """One row a method: SA and RA of each mode, then n, the seeds, and the seconds of pre-training.

    A mode that was run by several recipes has a row for each.
    """
    return [row for row, _ in _board(results)]


def _board(results: list[dict[str, Any]]) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Each row, and one of the results in it."""
    shown = ("standard", "robust", *more(results))
    for runs in grouped(results, ("method", "data", "evaluation", "pretrain")):
        by_mode = [grouped([run for run in runs if run["mode"] == mode], ("finetune",)) for mode in modes(results)]
        for parts in zip_longest(*by_mode, fillvalue=()):
            scores = [spread(part, score) if part else "–" for part in parts for score in shown]
            took = {str(run["seeds"]["pretrain"]): run["seconds"]["pretrain"] for part in parts for run in part}
            spent = mean(nan if value is None else value for value in took.values())
            tail = (judged(runs[0]), ", ".join(sorted(took)), f"{spent:.0f}".replace("nan", "–"))
            yield (runs[0]["method"], *scores, *tail), next(part[0] for part in parts if part)


def modes(results: list[dict[str, Any]]) -> tuple[str, ...]:
    """Those that there are, the field's three first."""
    known = {mode: k for k, mode in enumerate(("slf", "alf", "aff"))}
    return tuple(sorted({result["mode"] for result in results}, key=lambda mode: (known.get(mode, len(known)), mode)))


def board_columns(results: list[dict[str, Any]]) -> Row:
    scores = (f"{mode.upper()} {score}" for mode in modes(results) for score in ("SA", "RA", *more(results)))
    return ("method", *scores, "n", "seeds", "seconds")


BOARD_LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; mean ± standard deviation over runs "
    "(number of correct ones of n in each run); seeds: of pre-training; seconds: of pre-training alone, mean."
)


def spread(runs: list[dict[str, Any]], score: str) -> str:
    """Mean ± standard deviation over runs, and the count of each; of the mean corruption accuracy there is none."""
    score = MORE.get(score, score)
    if any(score not in run for run in runs):
        return "–"
    if score == "corruption_accuracy":
        return f"{_mean([run[score]['mean'] for run in runs])} %"
    counts = ", ".join(_count(run[score], run["robust"]) for run in runs)
    return f"{_mean([run[score]['percent'] for run in runs])} % ({counts})"


def _count(score: dict[str, Any], usual: dict[str, Any]) -> str:
    """And of how many, where these are fewer than the row says."""
    return f"{score['correct']}" + (f" of {score['n']}" if score["n"] < usual["n"] else "")


def _mean(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def seconds(result: dict[str, Any]) -> float:
    """Of pre-training, fine-tuning and evaluation together; no number if one of them is not known any more."""
    return sum(nan if value is None else value for value in result["seconds"].values())


def tabled(results: list[dict[str, Any]], kind: Kind = "runs") -> tuple[Row, list[Row], str]:
    """Columns, rows, and a line that says what the columns mean. Rows that look alike say in what they differ."""
    results = results if kind == "runs" else once_each(results)
    if kind == "board":
        columns, about = board_columns(results), (0, -3, -2)
        lines, words = list(_board(results)), legend(BOARD_LEGEND, results, ())
    else:
        of_runs = kind == "runs"
        columns, about = columns_of(results, "SA", "RA", *("RA 95 %",) * of_runs), (0, 1, 2, 3, -3, -2)
        body = rows(results) if of_runs else means(results)
        lines = list(zip(body, results if of_runs else [runs[0] for runs in grouped(results, ALIKE)], strict=True))
        words = legend(LEGEND if of_runs else MEAN_LEGEND, results)
    cells = []
    for row, result in lines:
        alike = [other for its, other in lines if all(its[k] == row[k] for k in about)]
        cells.append(differences(result, alike))
    body = [row for row, _ in lines]
    if not any(cells):
        return columns, body, words
    told = [(*row, cell or "–") for row, cell in zip(body, cells, strict=True)]
    return (*columns, DIFFERS), told, f"{words} {MORE_LEGEND[DIFFERS]}"


def legend(words: str, results: list[dict[str, Any]], columns: Row | None = None) -> str:
    columns = also(results) if columns is None else columns
    return " ".join([words, *(MORE_LEGEND[column] for column in (*columns, *more(results)))])


def markdown(results: list[dict[str, Any]], kind: Kind = "runs") -> str:
    """A table with a line under it that says what its columns mean."""
    return page(*tabled(results, kind))


def page(columns: Row, body: list[Row], legend: str) -> str:
    """Any table in Markdown, with its legend under it."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in body]
    return "\n".join(lines) + "\n\n" + legend + "\n"


MEAN_LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; mean ± standard deviation over runs "
    "(number of correct ones of n in each run); seeds: of pre-training/fine-tuning/evaluation in each run; seconds: mean of "
    "the three together, the pre-training being shared by its rows."
)
LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; (number of correct ones of n); "
    "RA 95 %: score interval of that count; seeds: of pre-training/fine-tuning/evaluation; "
    "seconds: of the three together, the pre-training being shared by its rows."
)


MORE_LEGEND = {
    CONSTANT: "constant: accuracy of whoever always answers the most frequent class, clean or attacked.",
    CORRUPTIONS: "corruptions: the mean over the severities that are named.",
    DIFFERS: "differs in: the fields in which rows that look alike differ.",
    "AA": "AA: under AutoAttack, of all these images or of so many random ones as it says.",
    "CA": "CA: under the fifteen common corruptions, the mean over them and over five severities.",
}


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The few numbers of each result that a program wants. `seconds` is of pre-training, fine-tuning and evaluation."""
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


def show(results: list[dict[str, Any]], kind: Kind = "runs") -> None:
    display(*tabled(results, kind))


def display(columns: Row, body: list[Row], legend: str) -> None:
    """On standard output: as a table on a terminal, as Markdown in a pipe or a file."""
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
