"""Findings from verdicts: agreement of rows, the hardest images, accuracy by ε."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean
from typing import Any

import numpy

from unshaken.board.collect import Receipt
from unshaken.board.paired import Verdicts
from unshaken.board.rows import Row

MATRIX_ROWS, HARDEST_IMAGES = 24, 24
"""The most rows of the matrix of agreement, and the number of hardest images."""


def insight(rows: list[Row], ids: dict[int, str], mode: str, metric: str) -> dict[str, Any] | None:
    """Return agreement and hardest images of the largest group of rows on the same images; None if it is below two.

    ids  the name of each row, by id(row)
    """
    found = [(row, v) for row in rows if (v := row.verdicts(mode, metric)) is not None]
    alike: dict[tuple[str, int], list[tuple[Row, Verdicts]]] = defaultdict(list)
    for row, verdicts in found:  # all receipts of a row have the same images
        alike[row.modes[mode][0].result["data"]["digest"], verdicts.bits.shape[1]].append((row, verdicts))
    largest = max(alike.values(), key=len, default=[])
    if len(largest) < 2:
        return None
    largest = sorted(largest, key=lambda each: -mean(each[1].accuracies))
    return {
        "metric": metric,
        "digest": largest[0][0].modes[mode][0].result["data"]["digest"],
        "agreement": agreement(largest[:MATRIX_ROWS], ids),
        "hardest": hardest([verdicts for _, verdicts in largest]),
    }


def agreement(rows: list[tuple[Row, Verdicts]], ids: dict[int, str]) -> dict[str, Any]:
    """Return, in percent, how often a random run of one row and one of another agree on an image."""
    matrix = []
    for _, a in rows:
        percents = []
        for _, b in rows:
            both = a.judged & b.judged
            p, q = a.share[both], b.share[both]  # the shares of a row's runs that are right
            percents.append(round(100 * float((p * q + (1 - p) * (1 - q)).mean()), 1))
        matrix.append(percents)
    return {"rows": [ids[id(row)] for row, _ in rows], "percent": matrix}


def hardest(rows: list[Verdicts]) -> dict[str, Any]:
    """Of the images that all judged, return those that fewest get right, and a histogram of the shares that do."""
    right = sum(v.bits.sum(0) for v in rows)
    classifiers = sum(len(v.bits) for v in rows)
    judged = numpy.logical_and.reduce([v.judged for v in rows])
    order = [int(i) for i in numpy.argsort(right, kind="stable") if judged[i]][:HARDEST_IMAGES]
    tenths = numpy.histogram(right[judged] / classifiers, bins=10, range=(0, 1))[0]  # pyright: ignore[reportIndexIssue]
    return {"of": classifiers, "images": [[i, int(right[i])] for i in order], "tenths": [int(k) for k in tenths]}  # pyright: ignore[reportIndexIssue]


def accuracy_by_epsilon(
    rows: list[Row], receipts: list[Receipt], ids: dict[int, str], mode: str
) -> list[dict[str, Any]]:
    """Return, for each row attacked at two or more ε, its mean accuracy at ε = 0 and at each ε that its seeds share."""
    results: dict[str, dict[float, dict[str, Any]]] = defaultdict(dict)  # of each network and norm, by ε
    for receipt in receipts:
        ball = receipt.result["evaluation"]["attack"]["ball"]
        if receipt.mode == mode:
            results[f"{receipt.result['weights']}/{ball['type']}"][ball["eps"]] = receipt.result
    curves = []
    for row in rows:
        known = []
        for receipt in row.modes.get(mode, ()):
            norm = receipt.result["evaluation"]["attack"]["ball"]["type"]
            known.append(results[f"{receipt.result['weights']}/{norm}"])
        if len(_shared(known)) < 2:  # seeds that were attacked at a single ε are left out
            known = [each for each in known if len(each) > 1]
        shared = _shared(known)
        if len(shared) > 1:
            clean = mean(percent(each[shared[0]]["standard"]) for each in known)  # it is equal at every ε
            points = [[eps, round(mean(percent(each[eps]["robust"]) for each in known), 3)] for eps in shared]
            curves.append({"row": ids[id(row)], "points": [[0.0, round(clean, 3)], *points], "seeds": len(known)})
    return curves


def _shared(seeds: list[dict[float, Any]]) -> list[float]:
    """Return the ε that all seeds were attacked at, sorted."""
    return sorted(set.intersection(*(set(each) for each in seeds))) if seeds else []


def percent(score: dict[str, Any]) -> float:
    return 100 * score["correct"] / score["n"]
