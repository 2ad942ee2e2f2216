"""The frontier of coresets: what a speed-up of pre-training costs in accuracy, as a figure and as a table."""

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
from unshaken.report.grouping import results_in, unseeded
from unshaken.report.scatter import Dot, figure
from unshaken.report.table import Row, attack, display, page, spread

Result = dict[str, Any]
COLUMNS = ("selector", "fraction", "seeds", "n", "SA", "RA", "warm-up s", "selection s", "training s", "speed-up")
LEGEND = (
    "SA: accuracy on clean test images; RA: on the same images under attack; mean ± standard deviation over seeds "
    "(number of correct ones of n in each run); seconds of pre-training: mean, of the warm-up on all candidates, of "
    "the selections, and of all other training; speed-up: seconds of pre-training on all images over those of a run "
    'with the same seed, both in all; "at the cost of": so many images by chance that they take as long as the '
    "selections and what they picked."
)
ALL, CHANCE = "all images", "Random"


@dataclass(frozen=True)
class FrontierFigureOptions:
    """What a speed-up of pre-training costs in accuracy: all images, chance, and selectors at several fractions."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders in which all results are looked for, or result files; or instead a recipe such as acl/digits, whose runs
    are then made."""
    mode: str | None = None
    """Of fine-tuning: slf, alf, aff. Needed where there are results of several."""
    out: Path = Path("frontier")
    """The figure goes into a file of this name and .svg, the table into one with .md."""


@dataclass(frozen=True)
class Point:
    """The runs of one selector at one fraction, and what each gained in time.

    series  its selector
    fraction  of each run; those of one point differ only where they are made to cost what another run did
    of      that other's fraction
    """

    series: str
    fraction: tuple[float, ...]
    runs: list[Result]
    speedups: list[float]
    of: float | None = None


def read(options: FrontierFigureOptions) -> list[Result]:
    """The results to compare, each once, of one mode if one is asked for."""
    found = results_in(list(options.runs), "frontier")
    kept = [r for k, r in enumerate(found) if options.mode in (None, r["mode"]) and r not in found[:k]]
    if not kept:
        modes = ", ".join(sorted({r["mode"] for r in found}))
        raise ValueError(f"there is no result of mode {options.mode!r} here; there are some of {modes}")
    return kept


def draw(results: list[Result], out: Path) -> None:
    """The figure and the table into files, and the table on standard output. What is there twice counts once."""
    results = [result for k, result in enumerate(results) if result not in results[:k]]
    found, name = points(results), str(out).removesuffix(".svg")
    table = rows(found)
    write_text(Path(f"{name}.svg"), picture(found))
    write_text(Path(f"{name}.md"), page(COLUMNS, table, LEGEND))
    display(COLUMNS, table, LEGEND)
    print(f"{name}.svg and {name}.md hold this", file=sys.stderr)


def points(results: list[Result]) -> list[Point]:
    """All images first, then by series and fraction. ValueError unless the results differ in their selectors alone."""
    comparable(results)
    whole = [r for r in results if selector(r) is None]
    parts = [r for r in results if selector(r) is not None]
    if not whole:
        raise ValueError("none of these results is of a run on all images, and a speed-up is against that")
    if not parts:
        raise ValueError("all of these results are of runs on all images; a frontier needs some on coresets too")
    groups: dict[tuple[str, float, float | None], list[Result]] = {}
    for result in parts:
        for place in places(result, parts):
            groups.setdefault(place, []).append(result)
    found = [Point(ALL, (1.0,), whole, speedups(whole, whole))]
    chance_first = sorted(groups.items(), key=lambda item: (not item[0][0].startswith(CHANCE), *item[0][:2]))
    for (series, _, of), runs in chance_first:
        fractions = tuple(selector(r)["fraction"] for r in runs)
        found.append(Point(series, fractions, runs, speedups(runs, whole), of))
    return found


def selector(result: Result) -> dict[str, Any] | None:
    """Of the images that it was pre-trained on; None for all of them."""
    return result["pretrain"]["recipe"].get("coreset")


def comparable(results: list[Result]) -> None:
    """ValueError unless they differ in selectors and seeds alone."""
    for what in ("mode", "data", "evaluation", "finetune", "pretrain"):
        kinds = {json.dumps(unseeded(_base(r[what])), sort_keys=True): r for r in results}
        if len(kinds) > 1:
            names = dict.fromkeys(f"{r['method']} {r['mode'].upper()} on {r['data']['name']}" for r in kinds.values())
            hint = "choose one by --mode" if what == "mode" else "name the files of one of them"
            raise ValueError(f"these results differ not in selectors alone but in {what} ({', '.join(names)}); {hint}")


def _base(part: Any) -> Any:
    """A recipe without its selector, and what it is called for that."""
    if not isinstance(part, dict) or "method" not in part.get("recipe", {}):
        return part
    return part | {"recipe": {k: v for k, v in part["recipe"].items() if k not in ("name", "coreset")}}


def places(result: Result, others: list[Result]) -> list[tuple[str, float, float | None]]:
    """Series, fraction, and whose cost it has, if any: where a result stands in the figure.

    A run on images by chance stands with the selector of the same seed that took as long, and with its own fraction if
    another selector has that, or if there is no such selector.
    """
    mine = selector(result)
    same_seed = [r for r in others if r["seeds"]["pretrain"] == result["seeds"]["pretrain"]]
    picked = [r for r in same_seed if selector(r)["type"] not in ("Random", "All")]
    found = [(series(result, others), mine["fraction"], None)]
    if mine["type"] != "Random":
        return found  # pyright: ignore[reportReturnType]
    dear = dict.fromkeys(
        (f"{CHANCE} at the cost of {series(r, others)}", selector(r)["fraction"], selector(r)["fraction"])
        for r in picked
        if costing_as_much(r) == mine["fraction"]
    )
    if dear and all(selector(r)["fraction"] != mine["fraction"] for r in picked):
        return list(dear)
    return [*found, *dear]


def costing_as_much(result: Result) -> float | None:
    """The fraction by chance that costs what a selector's run did; None if it is not known what it took."""
    mine, spent = selector(result), result.get("spent") or {}
    if "selection" not in spent:
        return None
    return matched(mine["fraction"], mine["warmup"], result["pretrain"]["recipe"]["epochs"], spent)


def series(result: Result, others: list[Result]) -> str:
    """The selector's name, and of its choices those in which others of its name differ."""
    mine = selector(result)
    alike = [selector(r) for r in others if selector(r)["type"] == mine["type"]]
    differ = [key for key in mine if key != "fraction" and any(each.get(key) != mine[key] for each in alike)]
    return mine["type"] + (f" ({', '.join(f'{key} {_word(mine[key])}' for key in differ)})" if differ else "")


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def took(result: Result) -> float:
    """Seconds of pre-training in all; no number if they are not known."""
    spent = result.get("spent")
    total = sum(spent.values()) if spent else result["seconds"]["pretrain"]
    return nan if total is None else total


def speedups(runs: list[Result], whole: list[Result]) -> list[float]:
    """Total against total, of the run on all images with the same seed, or of their mean if there is none."""
    by_seed = {r["seeds"]["pretrain"]: took(r) for r in whole}
    usual = mean(by_seed.values())
    return [by_seed.get(r["seeds"]["pretrain"], usual) / took(r) for r in runs]


def rows(found: list[Point]) -> list[Row]:
    """One row a point."""
    return [
        (
            point.series if point.of is None else f"{point.series} {point.of:g}",
            _range(point.fraction),
            ", ".join(str(r["seeds"]["pretrain"]) for r in point.runs),
            str(point.runs[0]["standard"]["n"]),
            spread(point.runs, "standard"),
            spread(point.runs, "robust"),
            *(_seconds(point.runs, part) for part in ("warmup", "selection", "training")),
            _ratio(point.speedups),
        )
        for point in found
    ]


def _range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _seconds(runs: list[Result], part: str) -> str:
    spent = [r.get("spent") or ({} if selector(r) else {"training": r["seconds"]["pretrain"]}) for r in runs]
    known = [each[part] for each in spent if each.get(part) is not None]
    return f"{mean(known):.1f}" if len(known) == len(runs) else "–"


def _ratio(values: list[float]) -> str:
    if not all(map(isfinite, values)):
        return "–"
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def picture(found: list[Point]) -> str:
    """The figure; ValueError if the time that a run took is not known."""
    unknown = [f"{point.series} {_range(point.fraction)}" for point in found if not isfinite(sum(point.speedups))]
    if unknown:
        raise ValueError(f"it is not known how long the pre-training took of {', '.join(unknown)}")
    one = found[0].runs[0]
    seeds = sorted({str(r["seeds"]["pretrain"]) for point in found for r in point.runs}, key=lambda s: (len(s), s))
    judged = f"{one['standard']['n']} test images, {attack(one['evaluation']['attack'])}"
    bars = ", mean ± standard deviation" if any(len(point.runs) > 1 for point in found) else ""
    said = [f"{row[0]}, fraction {row[1]}: speed-up {row[-1]}, SA {row[4]}, RA {row[5]}." for row in rows(found)]
    return figure(
        f"{one['method']} on {one['data']['name']}, {one['mode'].upper()}: accuracy against speed-up of pre-training",
        f"{judged}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}{bars}; beside a point: its fraction of the images",
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
