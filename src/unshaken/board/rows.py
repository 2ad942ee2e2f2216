"""Rows of a board: all seeds of one recipe, with its modes side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import mean, stdev
from typing import Any

import numpy

from unshaken.base.packed_bits import unpack_bits
from unshaken.board.check import wilson
from unshaken.board.collect import SCORES, Receipt
from unshaken.board.paired import Verdicts, ranks
from unshaken.board.tasks import Task, attack_of, task_of
from unshaken.report.grouping import unseeded

SUPERVISED = ("ST", "SAT", "TRADES")
"""Methods of pre-training that learn from the images' labels."""
NOT_TOLD = ("name", "seed", "root", "download", "unreadable", "type")
"""Fields of a recipe that do not distinguish rows: the folder of images, the treatment of broken files, ..."""


@dataclass
class Row:
    """All runs of one recipe on one task.

    modes   the runs by mode of fine-tuning, one for each pair of seeds
    detail  the fields in which its recipe differs from other rows of the same name
    ranks   by mode and score
    """

    task: Task
    method: str
    modes: dict[str, list[Receipt]]
    detail: str = ""
    ranks: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def first(self) -> Receipt:
        return next(iter(self.modes.values()))[0]

    @property
    def receipts(self) -> list[Receipt]:
        return [receipt for runs in self.modes.values() for receipt in runs]

    def verdicts(self, mode: str, metric: str) -> Verdicts | None:
        """Return the bits of a score, one row for each seed; None if there are none."""
        runs = [r.result[SCORES[metric]] for r in self.modes.get(mode, ()) if r.has(metric)]
        if not runs or metric == "CA":
            return None
        of = runs[0].get("of", runs[0]["n"])
        bits = numpy.stack([unpack_bits(score["bits"], of) for score in runs])
        judged = [unpack_bits(s["judged"], of) if "judged" in s else numpy.ones(of, bool) for s in runs]
        return Verdicts(bits, numpy.logical_and.reduce(judged))


def rows_of(receipts: list[Receipt]) -> list[Row]:
    """Return the rows of all tasks with their ranks and their details."""
    groups: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        groups.setdefault(row_key(receipt), []).append(receipt)
    rows = [row for group in groups.values() for row in split(group)]
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task]
        describe_differences(mine)
        rank(mine)
    return rows


def row_key(receipt: Receipt) -> str:
    result = receipt.result
    recipe = list(leaves(unseeded(receipt.pretrain), ""))
    precision = result["pretrain"].get("data", {}).get("precision")
    task = task_of(result)
    return json.dumps(
        [task.key, result["data"]["digest"], result["method"], recipe, precision, attack_of(result)], sort_keys=True
    )


def split(group: list[Receipt]) -> Iterator[Row]:
    """Yield one row, or several if a mode was fine-tuned by several recipes."""
    by_mode: dict[str, dict[str, list[Receipt]]] = {}
    for receipt in group:
        recipe = json.dumps(list(leaves(unseeded(receipt.finetune), "")))
        by_mode.setdefault(receipt.mode, {}).setdefault(recipe, []).append(receipt)
    known = {mode: k for k, mode in enumerate(("slf", "alf", "aff", "autolora"))}
    modes = sorted(by_mode, key=lambda mode: (known.get(mode, len(known)), mode))
    for runs in zip_longest(*(by_mode[mode].values() for mode in modes), fillvalue=None):
        found = {mode: by_seed(each) for mode, each in zip(modes, runs, strict=True) if each}
        first = next(iter(found.values()))[0]
        yield Row(task_of(first.result), first.result["method"], found)


def by_seed(receipts: list[Receipt]) -> list[Receipt]:
    """Return one run for each pair of training seeds, with its largest evaluation."""
    found: dict[str, Receipt] = {}
    for receipt in sorted(receipts, key=lambda r: -sum(r.has(metric) for metric in SCORES)):
        seeds = receipt.result["seeds"]
        found.setdefault(f"{seeds['pretrain']}/{seeds['finetune']}", receipt)
    return [found[key] for key in sorted(found, key=lambda key: (len(key), key))]


def rank(rows: list[Row]) -> None:
    """Rank the rows of one task in every mode and score; only rows on the same images and attack are compared."""
    for mode in dict.fromkeys(mode for row in rows for mode in row.modes):
        for metric in ("SA", "RA", "AA"):
            alike: dict[str, list[tuple[Row, Verdicts]]] = {}
            for row in rows:
                if (verdicts := row.verdicts(mode, metric)) is not None:
                    result = row.modes[mode][0].result
                    how = [result["data"]["digest"], verdicts.bits.shape[1], metric == "RA" and attack_of(result)]
                    alike.setdefault(json.dumps(how, sort_keys=True), []).append((row, verdicts))
            largest = max(alike.values(), key=len, default=[])
            for (row, _), position in zip(largest, ranks([verdicts for _, verdicts in largest]), strict=True):
                row.ranks.setdefault(mode, {})[metric] = position


def describe_differences(rows: list[Row]) -> None:
    """Write into each row how its recipes differ from the row of its method that has the most runs."""
    for method in dict.fromkeys(row.method for row in rows):
        mine = sorted((row for row in rows if row.method == method), key=lambda row: -len(row.receipts))
        flat = [flattened(row) for row in mine]
        if len(mine) > 1:
            others = dict.fromkeys(key for each in flat[1:] for key in differing(each, flat[0]))
            mine[0].detail = ", ".join(
                in_words(key, flat[0], flat) for key in outermost(list(others)) if key in flat[0]
            )
        for row, each in zip(mine[1:], flat[1:], strict=True):
            row.detail = ", ".join(in_words(key, each, flat) for key in outermost(differing(each, flat[0])))


def differing(one: dict[str, str], usual: dict[str, str]) -> list[str]:
    """Return the fields that differ, of fine-tuning only in modes that both rows have."""
    both = {key.partition("@")[0] for key in one} & {key.partition("@")[0] for key in usual}
    keys = [key for key in dict.fromkeys((*usual, *one)) if "@" not in key or key.partition("@")[0] in both]
    return [key for key in keys if one.get(key) != usual.get(key)]


def in_words(key: str, one: dict[str, str], flat: list[dict[str, str]]) -> str:
    """Return a field in words; for a component that several rows have, its unusual fields."""
    below = [inner for inner in one if inner.startswith(f"{key}.")]
    holders = [each for each in flat if key in each]
    if key in one and below and len(holders) > 2:
        usual = {inner: Counter(each.get(inner) for each in holders).most_common(1)[0][0] for inner in below}
        if unusual := outermost([inner for inner in below if usual[inner] not in (None, one[inner])]):
            return ", ".join(f"{spoken(inner)} {one[inner]}" for inner in unusual)
    return f"{spoken(key)} {one.get(key, 'none')}"


def flattened(row: Row) -> dict[str, str]:
    """Return every field of a row's recipes by its dotted name, as text."""
    found = dict(leaves(row.first.pretrain, ""))
    for mode, runs in row.modes.items():
        found |= {f"{mode}@{key}": value for key, value in leaves(runs[0].finetune, "")}
    result = row.first.result
    precision = result["pretrain"].get("data", {}).get("precision", "float32")
    return found | {f"attack.{key}": str(value) for key, value in attack_of(result).items()} | {"precision": precision}


def leaves(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if prefix and "type" in value:
            yield prefix, value["type"]
        for key, inner in value.items():
            if key not in NOT_TOLD or (key == "name" and prefix):
                yield from leaves(inner, f"{prefix}.{key}" if prefix else key)
    elif value is not None and value != []:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def outermost(keys: list[str]) -> list[str]:
    """Return the keys without those inside a component that differs as a whole, except a fraction."""
    parts = set(keys)
    below = [key for key in keys if not any(key != other and key.startswith(f"{other}.") for other in parts)]
    return below + [key for key in keys if key.endswith(".fraction") and key not in below]


def spoken(key: str) -> str:
    """Return a field's name for readers: slf@lr.peak is the peak lr of fine-tuning by SLF."""
    mode, _, inner = key.rpartition("@")
    last = inner.rsplit(".", 1)[-1] if inner.endswith(".fraction") else inner.removeprefix("method.")
    last = last.removeprefix("approximations.").removesuffix(".value")
    return f"{mode.upper()} {last}".strip()


def cell(runs: list[Receipt], metric: str) -> dict[str, Any] | None:
    """Return one cell of the table: mean and s.d. over seeds, counts of each seed, and the interval of the mean."""
    scores = [(r, r.result[SCORES[metric]]) for r in runs if r.has(metric)]
    if not scores:
        return None
    values = [s["mean"] if metric == "CA" else 100 * s["correct"] / s["n"] for _, s in scores]
    found: dict[str, Any] = {"mean": mean(values), "seeds": len(values)}
    if len(values) > 1:
        found["sd"] = stdev(values)
    if metric == "CA":
        levels = sorted(key for key in scores[0][1] if key.startswith("CS-"))
        return found | {"levels": {key: mean(score[key] for _, score in scores) for key in levels}}
    n = min(score["n"] for _, score in scores)
    low, high = wilson(mean(values) / 100 * n, n)
    counts = [[r.seeds, score["correct"], score["n"]] for r, score in scores]
    partial = {"of": scores[0][1]["of"]} if "of" in scores[0][1] else {}
    return found | {"low": 100 * low, "high": 100 * high, "n": n, "counts": counts} | partial
