"""Finding results in folders, grouping those that agree, naming the fields that differ."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_foreign_json
from unshaken.evaluation.result_file import read_result


def results_in(paths: list[Path], verb: str = "report") -> list[dict[str, Any]]:
    """Read every result at or below the paths, in the order of the paths and then of the file names."""
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
    """Return the results among all JSON files of a folder, such as results/digits, without files named result*.json."""
    found = []
    for file in sorted(folder.rglob("*.json")):
        try:
            content = read_foreign_json(file)
        except ValueError as error:
            print(f"note: left out, because it is not JSON: {error}", file=sys.stderr)
            continue
        if isinstance(content, dict) and {*ALIKE, "standard", "robust"} <= content.keys():
            found.append(file)
    return found


def grouped(results: list[dict[str, Any]], alike: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Group the results that agree in the given fields, up to seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(json.dumps([unseeded(result[key]) for key in alike], sort_keys=True), []).append(result)
    return list(groups.values())


ALIKE = ("method", "mode", "data", "evaluation", "pretrain", "finetune")
"""The fields in which the results of one row agree, up to seeds, digests of encoders, and folders of images."""


def unseeded(value: Any) -> Any:
    """Return a recipe without seeds, and without what depends on them or on the machine."""
    if isinstance(value, dict):
        return {k: unseeded(v) for k, v in value.items() if k not in ("seed", "encoder", "root", "weights")}
    return value


def once_each(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep one result of each classifier and evaluation: a mean is over runs, not over environments."""
    first: dict[str, dict[str, Any]] = {}
    for result in results:
        same = [unseeded(result[key]) for key in ALIKE] + [result["seeds"], result["weights"]]
        first.setdefault(json.dumps(same, sort_keys=True), result)
    if len(first) < len(results):
        print(f"note: {len(results) - len(first)} results are of classifiers that are counted already", file=sys.stderr)
    return list(first.values())


def differences(result: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """Return the fields in which a result differs from others: of its recipes and evaluation, else of the rest."""
    for keys in (("pretrain", "finetune", "evaluation"), ("data", "world"), ("weights", "notes", "file")):
        mine = dict(leaves({key: result.get(key) for key in keys}))
        theirs = [dict(leaves({key: other.get(key) for key in keys})) for other in others]
        names = [name for name in mine if not (keys[0] == "pretrain" and _follows(name))]
        found = [name for name in names if any(each.get(name, ...) != mine[name] for each in theirs)]
        if found:
            return ", ".join(f"{_short(name)} {word_of(mine[name])}" for name in found[:MOST])
    return ""


MOST = 4
"""The most fields that a cell names."""


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every innermost field by its dotted name."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _follows(name: str) -> bool:
    """Return whether a field follows from other fields, or from the seeds, which have a column."""
    return not {*name.split(".")}.isdisjoint(("seed", "root", "digest", "weights", "encoder"))


def _short(name: str) -> str:
    phase, _, rest = name.partition(".")
    rest = rest.removeprefix("recipe.") or phase
    return f"finetune {rest}" if phase == "finetune" else rest


def word_of(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)[:40] if isinstance(value, str) else json.dumps(value)[:40]
