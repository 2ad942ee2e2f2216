"""Results as a table: for a terminal, for Markdown, and as a summary in JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import tyro

from unshaken.base.terminal import console, printable
from unshaken.evaluate.reading import read_result

Row = tuple[str, ...]
Kind = Literal["runs", "means", "board"]
MORE = {"AA": "autoattack", "CA": "corruption_accuracy"}
"""Columns that are there if any result has them."""


@dataclass(frozen=True)
class Reporting:
    """Results as a table."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders in which all results are looked for, or result files."""
    means: bool = False
    """One row for all seeds of a method and mode: mean ± standard deviation."""
    board: bool = False
    """One row a method, its modes side by side: means over seeds."""
    out: Path | None = None
    """A file for the same table in Markdown."""


def results_in(paths: list[Path], verb: str = "report") -> list[dict[str, Any]]:
    """Every result.json at or below the paths, in the order of the paths and then of their names."""
    if not paths:
        raise ValueError(f"`unshaken {verb}` needs one or more runs, folders of runs or result files")
    files = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}")
        files += [path] if path.is_file() else sorted(path.rglob("result*.json"))
    if not files:
        raise ValueError(f"there is no result.json in {', '.join(map(str, paths))}; `unshaken evaluate RUN` writes one")
    return [read_result(file) for file in files]


def more(results: list[dict[str, Any]]) -> Row:
    return tuple(column for column, score in MORE.items() if any(score in result for result in results))


def columns_of(results: list[dict[str, Any]], *before: str) -> Row:
    return ("method", "mode", "data", "n", *before, *more(results), "attack", "seeds", "seconds")


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
            *(spread([result], column) for column in more(results)),
            attack(result["exam"]["attack"]),
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
            *(spread(runs, column) for column in more(results)),
            attack(runs[0]["exam"]["attack"]),
            ", ".join("/".join(map(str, run["seeds"].values())) for run in runs),
            f"{mean(seconds(run) for run in runs):.0f}".replace("nan", "–"),
        )
        for runs in grouped(results, ALIKE)
    ]


def board(results: list[dict[str, Any]]) -> list[Row]:
    """One row a method: SA and RA of each mode, then n, the seeds, and the seconds of pre-training.

    A mode that was run by several recipes has a row for each.
    """
    lines, shown = [], ("standard", "robust", *more(results))
    for runs in grouped(results, ("method", "data", "exam", "pretrain")):
        by_mode = [grouped([run for run in runs if run["mode"] == mode], ("finetune",)) for mode in modes(results)]
        for parts in zip_longest(*by_mode, fillvalue=()):
            scores = [spread(part, score) if part else "–" for part in parts for score in shown]
            took = {str(run["seeds"]["pretrain"]): run["seconds"]["pretrain"] for part in parts for run in part}
            spent = mean(nan if value is None else value for value in took.values())
            tail = (judged(runs[0]), ", ".join(sorted(took)), f"{spent:.0f}".replace("nan", "–"))
            lines.append((runs[0]["method"], *scores, *tail))
    return lines


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


def grouped(results: list[dict[str, Any]], alike: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Those that agree in the given parts, but for their seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(json.dumps([unseeded(result[key]) for key in alike], sort_keys=True), []).append(result)
    return list(groups.values())


ALIKE = ("method", "mode", "data", "exam", "pretrain", "finetune")
"""What results share that are taken together, but for seeds, digests of encoders, and where the images lay."""


def unseeded(value: Any) -> Any:
    """What is left of a recipe once seeds, and what follows from them or from the machine, are taken out."""
    if isinstance(value, dict):
        return {k: unseeded(v) for k, v in value.items() if k not in ("seed", "encoder", "root", "weights")}
    return value


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
    """Of pre-training, fine-tuning and exam together; no number if one of them is not known any more."""
    return sum(nan if value is None else value for value in result["seconds"].values())


def tabled(results: list[dict[str, Any]], kind: Kind = "runs") -> tuple[Row, list[Row], str]:
    """Columns, rows, and a line that says what the columns mean."""
    return {
        "runs": lambda: (columns_of(results, "SA", "RA", "RA 95 %"), rows(results), legend(LEGEND, results)),
        "means": lambda: (columns_of(results, "SA", "RA"), means(results), legend(MEAN_LEGEND, results)),
        "board": lambda: (board_columns(results), board(results), legend(BOARD_LEGEND, results)),
    }[kind]()


def legend(words: str, results: list[dict[str, Any]]) -> str:
    return " ".join([words, *(MORE_LEGEND[column] for column in more(results))])


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
    "(number of correct ones of n in each run); seeds: of pre-training/fine-tuning/exam in each run; seconds: mean of "
    "the three together, the pre-training being shared by its rows."
)
LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; (number of correct ones of n); "
    "RA 95 %: score interval of that count; seeds: of pre-training/fine-tuning/exam; "
    "seconds: of the three together, the pre-training being shared by its rows."
)


MORE_LEGEND = {
    "AA": "AA: under AutoAttack, of all these images or of so many random ones as it says.",
    "CA": "CA: under the fifteen common corruptions, the mean over them and over five severities.",
}


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The few numbers of each result that a program wants. `seconds` is of pre-training, fine-tuning and exam."""
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
