"""Findings from verdict bits: agreement of rows, hardest images, robustness against ε."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean
from typing import Any

import numpy

from unshaken.board.collect import Receipt
from unshaken.board.paired import Verdicts
from unshaken.board.rows import Row

MATRIX, HARDEST = 24, 24
"""The most rows of the matrix of agreement, and the number of hardest images."""


def insight(rows: list[Row], ids: dict[int, str], mode: str, metric: str) -> dict[str, Any] | None:
    """Return agreement and hardest images of one task and mode; None if fewer than two rows are comparable."""
    found = [(row, v) for row in rows if (v := row.verdicts(mode, metric)) is not None]
    alike: dict[tuple[str, int], list[tuple[Row, Verdicts]]] = defaultdict(list)
    for row, verdicts in found:
        alike[row.modes[mode][0].result["data"]["digest"], verdicts.bits.shape[1]].append((row, verdicts))
    largest = max(alike.values(), key=len, default=[])
    if len(largest) < 2:
        return None
    largest = sorted(largest, key=lambda each: -mean(each[1].accuracies))
    return {
        "metric": metric,
        "digest": largest[0][0].modes[mode][0].result["data"]["digest"],
        "agreement": agreement(largest[:MATRIX], ids),
        "hardest": hardest([verdicts for _, verdicts in largest]),
    }


def agreement(rows: list[tuple[Row, Verdicts]], ids: dict[int, str]) -> dict[str, Any]:
    """Return, in percent, the share of images on which runs of two rows agree."""
    matrix = []
    for _, a in rows:
        line = []
        for _, b in rows:
            both = a.judged & b.judged
            p, q = a.share[both], b.share[both]
            line.append(round(100 * float((p * q + (1 - p) * (1 - q)).mean()), 1))
        matrix.append(line)
    return {"rows": [ids[id(row)] for row, _ in rows], "percent": matrix}


def hardest(rows: list[Verdicts]) -> dict[str, Any]:
    """Return the images that the fewest classifiers get right, and a histogram over the share of classifiers."""
    right = sum(v.bits.sum(0) for v in rows)
    of = sum(len(v.bits) for v in rows)
    judged = numpy.logical_and.reduce([v.judged for v in rows])
    order = [int(i) for i in numpy.argsort(right, kind="stable") if judged[i]][:HARDEST]
    tenths = numpy.histogram(right[judged] / of, bins=10, range=(0, 1))[0]  # pyright: ignore[reportIndexIssue]
    return {"of": of, "images": [[i, int(right[i])] for i in order], "tenths": [int(k) for k in tenths]}  # pyright: ignore[reportIndexIssue]


def against_epsilon(rows: list[Row], receipts: list[Receipt], ids: dict[int, str], mode: str) -> list[dict[str, Any]]:
    """Return, for each row whose networks were attacked at two or more ε, its accuracy at each of them."""
    at: dict[str, dict[float, dict[str, Any]]] = defaultdict(dict)
    for receipt in receipts:
        ball = receipt.result["evaluation"]["attack"]["ball"]
        if receipt.mode == mode:
            at[f"{receipt.result['weights']}/{ball['type']}"][ball["eps"]] = receipt.result
    curves = []
    for row in rows:
        known = []
        for receipt in row.modes.get(mode, ()):
            norm = receipt.result["evaluation"]["attack"]["ball"]["type"]
            known.append(at[f"{receipt.result['weights']}/{norm}"])
        shared = sorted(set.intersection(*(set(each) for each in known))) if known else []
        known = known if len(shared) > 1 else [each for each in known if len(each) > 1]  # only the seeds with several ε
        shared = sorted(set.intersection(*(set(each) for each in known))) if known else []
        if len(shared) > 1:
            clean = mean(percent(each[shared[0]]["standard"]) for each in known)
            points = [[eps, round(mean(percent(each[eps]["robust"]) for each in known), 3)] for eps in shared]
            curves.append({"row": ids[id(row)], "points": [[0.0, round(clean, 3)], *points], "seeds": len(known)})
    return curves


def percent(score: dict[str, Any]) -> float:
    return 100 * score["correct"] / score["n"]
