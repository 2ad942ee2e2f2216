"""The frontier: accuracy against the speed-up of pre-training on coresets, as a figure and a table."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import tyro

from unshaken.base.json_files import write_text
from unshaken.coreset.cost import matched
from unshaken.report.cells import attack, spread
from unshaken.report.grouping import results_in, unseeded
from unshaken.report.records import TableOptions, print_records
from unshaken.report.scatter import Dot, figure
from unshaken.report.table import Row, display, page

Result = dict[str, Any]
COLUMNS = ("selector", "fraction", "seeds", "n", "SA", "RA", "warm-up s", "selection s", "training s", "speed-up")
LEGEND = (
    "SA: accuracy on clean test images. RA: accuracy on the same images under attack. Both: mean ± standard deviation "
    "over seeds (correct images of n, run by run). warm-up s, selection s, training s: mean seconds of pre-training "
    "for the warm-up on all candidates, for the selections, and for the rest; –: unknown. speed-up: seconds on all "
    'images, with the same seed, over the seconds of the run. "at the cost of": as many random images as the time of '
    "the selections and of the training on them would have paid for."
)
ALL, RANDOM = "all images", "Random"


@dataclass(frozen=True)
class FrontierFigureOptions(TableOptions):
    """Draw accuracy against the speed-up of pre-training, for random images and selectors at several fractions."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Result files, or folders that are searched for results; or a recipe such as acl/digits, which is then trained on
    all images, on selections and on random images."""
    mode: str | None = None
    """Mode of fine-tuning, such as slf. It is needed if there are results of several modes."""
    out: Path = Path("frontier")
    """NAME of the files: NAME.svg has the figure, NAME.md the table."""


@dataclass(frozen=True)
class Point:
    """The runs of one selector at one fraction, and the speed-up of each.

    series            the selector
    fraction          the fraction of each run
    matched_fraction  for random images at the cost of a selector's run: the fraction of that run; the fractions of
                      random images then differ from seed to seed
    """

    series: str
    fraction: tuple[float, ...]
    runs: list[Result]
    speedups: list[float]
    matched_fraction: float | None = None


def read(options: FrontierFigureOptions) -> list[Result]:
    """Read the results without duplicates; with --mode only those of this mode."""
    found = results_in(list(options.runs), "frontier")
    results = [r for k, r in enumerate(found) if options.mode in (None, r["mode"]) and r not in found[:k]]
    if not results:
        modes = ", ".join(sorted({r["mode"] for r in found}))
        raise ValueError(f"none of these results is of mode {options.mode!r}; their modes are {modes}")
    return results


def draw(results: list[Result], out: Path, form: TableOptions = TableOptions()) -> None:
    """Write the figure and the table into files, and print the table or its numbers.

    A result that is given twice counts once.
    """
    results = [result for k, result in enumerate(results) if result not in results[:k]]  # not all come from `read`
    found, name = points(results), str(out).removesuffix(".svg")
    table = rows(found)
    write_text(Path(f"{name}.svg"), picture(found))
    write_text(Path(f"{name}.md"), page(COLUMNS, table, LEGEND))
    if form.for_programs:
        print_records([record(point) for point in found], form)
    else:
        display(COLUMNS, table, LEGEND)
    print(f"wrote {name}.svg and {name}.md", file=sys.stderr)


def points(results: list[Result]) -> list[Point]:
    """Return the points. ValueError if the results differ in more than selectors and seeds."""
    check_comparable(results)
    on_all = [r for r in results if selector(r) is None]
    on_coresets = [r for r in results if selector(r) is not None]
    if not on_all:
        raise ValueError("no result is of a run on all images, against which speed-ups are measured: add one")
    if not on_coresets:
        raise ValueError("all of these results are of runs on all images; a frontier needs some on coresets too")
    groups: dict[tuple[str, float, float | None], list[Result]] = {}
    for result in on_coresets:
        for key in group_keys(result, on_coresets):
            groups.setdefault(key, []).append(result)
    found = [Point(ALL, (1.0,), on_all, speedups(on_all, on_all))]
    random_first = sorted(groups.items(), key=lambda item: (not item[0][0].startswith(RANDOM), *item[0][:2]))
    for (series, _, of), runs in random_first:
        fractions = tuple(selector(r)["fraction"] for r in runs)
        found.append(Point(series, fractions, runs, speedups(runs, on_all), of))
    return found


def selector(result: Result) -> dict[str, Any] | None:
    """Return the recipe of the selector; None if pre-training was on all images."""
    return result["pretrain"]["recipe"].get("coreset")


def check_comparable(results: list[Result]) -> None:
    """Raise ValueError if results differ in more than selectors and seeds."""
    for what in ("mode", "data", "evaluation", "finetune", "pretrain"):
        # one result for each distinct recipe
        kinds = {json.dumps(unseeded(_without_selector(r[what])), sort_keys=True): r for r in results}
        if len(kinds) > 1:
            names = dict.fromkeys(f"{r['method']} {r['mode'].upper()} on {r['data']['name']}" for r in kinds.values())
            hint = "choose one by --mode" if what == "mode" else "give the files of one kind only"
            raise ValueError(
                f"these results differ in {what}, not only in selectors and seeds ({', '.join(names)}); {hint}"
            )


def _without_selector(part: Any) -> Any:
    """Return a recipe without its selector and its name."""
    if not isinstance(part, dict) or "method" not in part.get("recipe", {}):
        return part
    return part | {"recipe": {k: v for k, v in part["recipe"].items() if k not in ("name", "coreset")}}


def group_keys(result: Result, others: list[Result]) -> list[tuple[str, float, float | None]]:
    """Return the groups of a result: series, fraction, and the fraction of the run whose cost it matches, if any.

    A run on random images stands under "Random at the cost of" each selector's run of its seed whose cost it matches.
    It stands at its own fraction too if a selector has that fraction, and only there if it matches none.
    """
    mine = selector(result)
    same_seed = [r for r in others if r["seeds"]["pretrain"] == result["seeds"]["pretrain"]]
    by_selectors = [r for r in same_seed if selector(r)["type"] not in (RANDOM, "All")]
    found = [(series(result, others), mine["fraction"], None)]
    if mine["type"] != RANDOM:
        return found  # pyright: ignore[reportReturnType]
    at_cost = dict.fromkeys(
        (f"{RANDOM} at the cost of {series(r, others)}", selector(r)["fraction"], selector(r)["fraction"])
        for r in by_selectors
        if random_fraction_at_cost(r) == mine["fraction"]
    )
    if at_cost and all(selector(r)["fraction"] != mine["fraction"] for r in by_selectors):
        return list(at_cost)
    return [*found, *at_cost]


def random_fraction_at_cost(result: Result) -> float | None:
    """Return the fraction of random images that costs as much as a selector's run; None if its seconds are unknown."""
    mine, spent = selector(result), result.get("spent") or {}
    if "selection" not in spent:
        return None
    return matched(mine["fraction"], mine["warmup"], result["pretrain"]["recipe"]["epochs"], spent)


def series(result: Result, others: list[Result]) -> str:
    """Return the selector's name, with the fields in which selectors of this name differ."""
    mine = selector(result)
    alike = [selector(r) for r in others if selector(r)["type"] == mine["type"]]
    differ = [key for key in mine if key != "fraction" and any(each.get(key) != mine[key] for each in alike)]
    return mine["type"] + (f" ({', '.join(f'{key} {_shown(mine[key])}' for key in differ)})" if differ else "")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def total_seconds(result: Result) -> float:
    """Return the seconds of pre-training; NaN if they are unknown."""
    spent = result.get("spent")
    total = sum(spent.values()) if spent else result["seconds"]["pretrain"]
    return nan if total is None else total


def speedups(runs: list[Result], on_all: list[Result]) -> list[float]:
    """Return the speed-up of each run, relative to the run on all images with its seed; without one, to their mean."""
    by_seed = {r["seeds"]["pretrain"]: total_seconds(r) for r in on_all}
    mean_seconds = mean(by_seed.values())
    return [by_seed.get(r["seeds"]["pretrain"], mean_seconds) / total_seconds(r) for r in runs]


def record(point: Point) -> dict[str, Any]:
    """Return the numbers of one point: lists have one value for each of its runs."""
    scores = {name: [run[key]["percent"] for run in point.runs] for name, key in (("sa", "standard"), ("ra", "robust"))}
    return {
        "selector": point.series,
        "fraction": list(point.fraction),
        "at_the_cost_of": point.matched_fraction,
        "seeds": [run["seeds"]["pretrain"] for run in point.runs],
        "n": point.runs[0]["standard"]["n"],
        **scores,
        "speedup": [each if isfinite(each) else None for each in point.speedups],
    }


def rows(found: list[Point]) -> list[Row]:
    """Return one row for each point."""
    return [
        (
            point.series if point.matched_fraction is None else f"{point.series} {point.matched_fraction:g}",
            _range(point.fraction),
            ", ".join(str(r["seeds"]["pretrain"]) for r in point.runs),
            str(point.runs[0]["standard"]["n"]),
            spread(point.runs, "standard"),
            spread(point.runs, "robust"),
            *(_seconds(point.runs, phase) for phase in ("warmup", "selection", "training")),
            _ratio(point.speedups),
        )
        for point in found
    ]


def _range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _seconds(runs: list[Result], phase: str) -> str:
    spent = [r.get("spent") or ({} if selector(r) else {"training": r["seconds"]["pretrain"]}) for r in runs]
    found = [each[phase] for each in spent if each.get(phase) is not None]
    return f"{mean(found):.1f}" if len(found) == len(runs) else "–"


def _ratio(values: list[float]) -> str:
    if not all(map(isfinite, values)):
        return "–"
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def picture(found: list[Point]) -> str:
    """Return the figure as SVG. ValueError if the seconds of a run are unknown."""
    unknown = [f"{point.series} {_range(point.fraction)}" for point in found if not isfinite(sum(point.speedups))]
    if unknown:
        raise ValueError(f"the seconds of pre-training are unknown for {', '.join(unknown)}")
    one = found[0].runs[0]
    seeds = sorted({str(r["seeds"]["pretrain"]) for point in found for r in point.runs}, key=lambda s: (len(s), s))
    judged = f"{one['standard']['n']} test images, {attack(one['evaluation']['attack'])}"
    bars = ", mean ± standard deviation" if any(len(point.runs) > 1 for point in found) else ""
    said = [f"{row[0]}, fraction {row[1]}: speed-up {row[-1]}, SA {row[4]}, RA {row[5]}." for row in rows(found)]
    return figure(
        f"{one['method']} on {one['data']['name']}, {one['mode'].upper()}: accuracy against speed-up of pre-training",
        f"{judged}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}{bars}; beside a point: its fraction of "
        "the images",
        " ".join(said),
        "speed-up (×), all images = 1",
        {
            "Standard accuracy (SA), %": _dots(found, "standard"),
            "Robust accuracy (RA), %": _dots(found, "robust"),
        },
    )


def _dots(found: list[Point], score: str) -> dict[str, list[Dot]]:
    series: dict[str, list[Dot]] = {}
    for point in found:
        percents = [r[score]["percent"] for r in point.runs]
        x_error, y_error = (stdev(v) if len(v) > 1 else 0.0 for v in (point.speedups, percents))
        label = f"{mean(point.fraction):.3g}" if point.series != ALL else ""
        series.setdefault(point.series, []).append(Dot(mean(point.speedups), mean(percents), x_error, y_error, label))
    return series
