"""Which results are alike: found in folders, grouped, counted once each, and the fields in which they differ."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_foreign_json
from unshaken.evaluation.result_file import read_result


def results_in(paths: list[Path], verb: str = "report") -> list[dict[str, Any]]:
    """Every result.json at or below the paths, in the order of the paths and then of their names."""
    if not paths:
        raise ValueError(f"`unshaken {verb}` needs one or more runs, folders of runs or result files")
    found = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}")
        files = [path] if path.is_file() else sorted(path.rglob("result*.json")) or _among(path)
        found += [read_result(file) for file in files]
    if not found:
        raise ValueError(f"there is no result.json in {', '.join(map(str, paths))}; `unshaken evaluate RUN` writes one")
    return found


def _among(folder: Path) -> list[Path]:
    """The results among the JSON files of a folder in which none is called by its usual name: results/digits, say."""
    found = []
    for file in sorted(folder.rglob("*.json")):
        try:
            content = read_foreign_json(file)
        except ValueError as error:
            print(f"note: left out, for it is no JSON: {error}", file=sys.stderr)
            continue
        if isinstance(content, dict) and {*ALIKE, "standard", "robust"} <= content.keys():
            found.append(file)
    return found


def grouped(results: list[dict[str, Any]], alike: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Those that agree in the given parts, but for their seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(json.dumps([unseeded(result[key]) for key in alike], sort_keys=True), []).append(result)
    return list(groups.values())


ALIKE = ("method", "mode", "data", "evaluation", "pretrain", "finetune")
"""What results share that are taken together, but for seeds, digests of encoders, and where the images lay."""


def unseeded(value: Any) -> Any:
    """What is left of a recipe once seeds, and what follows from them or from the machine, are taken out."""
    if isinstance(value, dict):
        return {k: unseeded(v) for k, v in value.items() if k not in ("seed", "encoder", "root", "weights")}
    return value


def once_each(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without a second result of a classifier by the same evaluation, such as one of another world: a mean is of runs."""
    kept: dict[str, dict[str, Any]] = {}
    for result in results:
        same = [unseeded(result[key]) for key in ALIKE] + [result["seeds"], result["weights"]]
        kept.setdefault(json.dumps(same, sort_keys=True), result)
    if len(kept) < len(results):
        print(f"note: {len(results) - len(kept)} results are of classifiers that are counted already", file=sys.stderr)
    return list(kept.values())


def differences(result: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """The fields of its recipes and evaluation, or if these are equal of all else, that others of its kind have otherwise."""
    for parts in (("pretrain", "finetune", "evaluation"), ("data", "world"), ("weights", "notes", "file")):
        mine = dict(leaves({part: result.get(part) for part in parts}))
        known = [dict(leaves({part: other.get(part) for part in parts})) for other in others]
        names = [name for name in mine if not (parts[0] == "pretrain" and _follows(name))]
        found = [name for name in names if any(each.get(name, ...) != mine[name] for each in known)]
        if found:
            return ", ".join(f"{_short(name)} {word_of(mine[name])}" for name in found[:MOST])
    return ""


MOST = 4
"""Fields that a cell names."""


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that is no part with fields of its own, by its dotted name."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _follows(name: str) -> bool:
    """Whether a field follows from others, or from the seeds, which have a column."""
    return not {*name.split(".")}.isdisjoint(("seed", "root", "digest", "weights", "encoder"))


def _short(name: str) -> str:
    part, _, rest = name.partition(".")
    rest = rest.removeprefix("recipe.") or part
    return f"finetune {rest}" if part == "finetune" else rest


def word_of(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)[:40] if isinstance(value, str) else json.dumps(value)[:40]
