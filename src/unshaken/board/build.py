"""The content of a board's pages as plain values, from results and published numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from statistics import mean
from typing import Any

from unshaken.base.amounts import amount
from unshaken.board.collect import SCORES, Receipt
from unshaken.board.insight import accuracy_by_epsilon, insight
from unshaken.board.reported import reported_rows
from unshaken.board.rows import SUPERVISED, Row, cell, rows_of
from unshaken.board.tasks import Task, budget
from unshaken.citations.cite import BIBLIOGRAPHY, cited
from unshaken.citations.credits import METHODS
from unshaken.report.cells import attack_kind

Commands = Callable[[Row], list[str] | None]
Count = Callable[[Row], float | None]


def build(
    receipts: list[Receipt],
    published: dict[str, Any],
    remake: Commands = lambda row: None,
    count: Count = lambda row: None,
) -> dict[str, Any]:
    """Return what the pages show: tasks, rows, the details and the bits of each row, sources and corrections.

    remake  returns the commands that reproduce a row
    count   returns the 10^15 operations of a row's pre-training
    """
    measured = rows_of(receipts)
    ids = {id(row): row_id(row) for row in measured}
    reported = reported_rows(published)
    rows = [measured_row(row, ids[id(row)], count(row)) for row in measured]
    rows += [row | {"id": "r-" + digest(f"{row['task'].key}{row['method']}{row['detail']}{row['source']}")}
             for row in reported]  # fmt: skip
    tasks = tasks_of(measured, reported, receipts, ids)
    for row in rows:
        row["task"] = row["task"].key
    return {
        "tasks": tasks,
        "rows": rows,
        "sources": published["sources"],
        "corrections": published["corrections"],
        "details": {ids[id(row)]: details(row, remake) for row in measured},
        "bits": bits_by_task(measured, ids),
    }


def row_id(row: Row) -> str:
    return "m-" + digest(json.dumps([row.task.key, row.method, row.detail, sorted(r.seeds for r in row.receipts),
                                     sorted(r.result["weights"] for r in row.receipts)]))  # fmt: skip


def digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=5).hexdigest()


def measured_row(row: Row, name: str, pflop: float | None = None) -> dict[str, Any]:
    """Return a row as the table shows it."""
    metrics = {mode: {m: c for m in SCORES if (c := cell(runs, m))} for mode, runs in row.modes.items()}
    result = row.first.result
    return {
        "id": name,
        "kind": "measured",
        "task": row.task,
        "method": row.method,
        "detail": row.detail,
        "cells": metrics,
        "ranks": row.ranks,
        "venue": venue(row.method),
        "labels": labels(row),
        "extra": extra(row),
        "cost": cost(row) | ({"pflop": round(pflop, 6)} | starting_encoder(row) if pflop is not None else {}),
        "date": max((receipt.date for receipt in row.receipts), default=""),
        "version": result.get("world", {}).get("unshaken", ""),
        "folder": folder(row),
        "seeds": list(dict.fromkeys(receipt.result["seeds"]["pretrain"] for receipt in row.receipts)),
        "checks": sum(len(receipt.result.get("checks", [])) for receipt in row.receipts),
        "attack": attack_words(result),
        "digest": result["data"]["digest"],
        "by": ", ".join(dict.fromkeys(str(r.beside["by"]) for r in row.receipts if r.beside.get("by"))),
    }


def venue(method: str) -> str:
    papers = METHODS[method].papers if method in METHODS else ()
    return f"{BIBLIOGRAPHY[papers[0]].venue} {BIBLIOGRAPHY[papers[0]].year}" if papers else ""


def labels(row: Row) -> str:
    kind = row.first.pretrain.get("method", {}).get("type")
    if kind is None and "teacher" not in row.first.pretrain:
        return "unknown"
    return "in pre-training" if kind in SUPERVISED else "none"


def extra(row: Row) -> str:
    """Return a note if the encoder may have seen other images: its teacher or its start is a file."""
    recipe = row.first.pretrain
    encoders = [recipe.get(key) for key in ("teacher", "start") if recipe.get(key)]
    named = [name for name in encoders if name != "teacher" and not name.endswith(f"/{recipe['data']['name']}")]
    return "an encoder of others" if named or recipe.get("type") == "Imported" else ""


def cost(row: Row) -> dict[str, Any]:
    """Return the cost of pre-training, the mean over seeds, as far as the results have it."""
    by_seed = {str(r.result["seeds"]["pretrain"]): r.result for r in row.receipts}
    seconds = [result["seconds"].get("pretrain") for result in by_seed.values()]
    found: dict[str, Any] = {}
    if all(value is not None for value in seconds):
        found["seconds"] = round(mean(seconds), 2)
    world = row.first.result.get("world", {})
    threads = f", {amount(world['threads'], 'thread')}" if world.get("device") == "cpu" else ""
    if "device" in world:
        found["device"] = f"{world.get('gpu') or world['device'].upper()}{threads}"
    for key in ("pflop", "memory_gb"):
        costs = [result.get("cost", {}).get(key) for result in by_seed.values()]
        if all(value is not None for value in costs):
            found[key] = round(mean(costs), 4)
    parts = [result.get("spent") or {} for result in by_seed.values()]
    return found | ({"spent": parts[0]} if len(parts[0]) > 1 else {})


def starting_encoder(row: Row) -> dict[str, str]:
    """Return the encoder that a recipe starts from: its operations and seconds are not included in the recipe's."""
    recipe = row.first.pretrain
    names = [recipe.get(key) for key in ("teacher", "start")]
    name = next((name for name in names if name and name != "teacher"), None)
    return {"beside": f"those of {name}"} if name else {}


def folder(row: Row) -> str:
    folders = dict.fromkeys(receipt.file.parent.as_posix() for receipt in row.receipts)
    return ", ".join(list(folders)[:3])


def attack_words(result: dict[str, Any]) -> str:
    attack = result["evaluation"]["attack"]
    restarts = f" × {attack['restarts']}" if attack.get("restarts", 1) > 1 else ""
    return f"{attack_kind(attack)}{restarts}"


def tasks_of(
    measured: list[Row], reported: list[dict[str, Any]], receipts: list[Receipt], ids: dict[int, str]
) -> list[dict[str, Any]]:
    """Return the tasks, those with most measured rows first."""
    everything = [row.task for row in measured] + [row["task"] for row in reported]
    found = []
    for task in dict.fromkeys(everything):
        mine, theirs = ([row for row in measured if row.task == task], [r for r in reported if r["task"] == task])
        modes = {m: None for row in mine for m in row.modes} | {m: None for row in theirs for m in row["cells"]}
        known = {mode: k for k, mode in enumerate(("slf", "alf", "aff", "autolora"))}
        ordered = sorted(modes, key=lambda mode: (known.get(mode, len(known)), mode))
        found.append(task_entry(task, mine, theirs, ordered) | {"insight": insights(mine, receipts, ids, ordered)})
    return sorted(found, key=lambda task: (-task["measured"], -task["reported"], task["key"]))


def task_entry(task: Task, mine: list[Row], theirs: list[dict[str, Any]], modes: list[str]) -> dict[str, Any]:
    sizes = sorted({r.result["data"]["n"] for row in mine for r in row.receipts})
    return {
        "key": task.key,
        "title": task.title,
        "pretrain": task.pretrain,
        "judged": task.judged,
        "threat": task.threat,
        "epsilon": budget(task.threat),
        "network": task.network,
        "images": sizes,
        "modes": modes,
        "measured": len(mine),
        "reported": len(theirs),
    }


def insights(rows: list[Row], receipts: list[Receipt], ids: dict[int, str], modes: list[str]) -> dict[str, Any]:
    found = {}
    for mode in modes:
        by_metric = [each for metric in ("AA", "RA") if (each := insight(rows, ids, mode, metric))]
        best = max(by_metric, key=lambda each: len(each["agreement"]["rows"]), default=None)
        curves = accuracy_by_epsilon(rows, receipts, ids, mode)
        if best or curves:
            found[mode] = (best or {}) | ({"epsilon": curves} if curves else {})
    return found


def details(row: Row, remake: Commands) -> dict[str, Any]:
    """Return what a click on a row shows: recipes, commands, BibTeX, checks, and each run."""
    first = row.first.result
    papers = cited({"pretrain": first["pretrain"], "finetune": first["finetune"], "evaluation": first["evaluation"]})
    return {
        "pretrain": row.first.pretrain,
        "finetune": {mode: runs[0].finetune for mode, runs in row.modes.items()},
        "evaluation": first["evaluation"],
        "commands": remake(row),
        "bibtex": "\n\n".join(paper.bibtex for paper in papers),
        "runs": [run_of(receipt) for receipt in row.receipts],
    }


def run_of(receipt: Receipt) -> dict[str, Any]:
    result = receipt.result
    return {
        "mode": receipt.mode,
        "seeds": result["seeds"],
        "file": receipt.file.as_posix(),
        "weights": result["weights"],
        "images": result["data"]["digest"],
        "world": result.get("world", {}),
        "checks": result.get("checks", []),
        "seconds": result["seconds"],
        "beside": receipt.beside,
    }


def bits_by_task(rows: list[Row], ids: dict[int, str]) -> dict[str, dict[str, Any]]:
    """Return the verdict bits by task, row, mode and score, one text for each seed, for paired tests in the browser."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        mine = found.setdefault(row.task.key, {}).setdefault(ids[id(row)], {})
        for mode, runs in row.modes.items():
            for metric in ("SA", "RA", "AA"):
                scores = [r.result[SCORES[metric]] for r in runs if r.has(metric)]
                if scores:
                    kept = [{key: s[key] for key in ("bits", "judged", "n", "of") if key in s} for s in scores]
                    mine.setdefault(mode, {})[metric] = kept
    return found
