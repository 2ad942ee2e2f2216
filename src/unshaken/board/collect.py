"""Collecting result files for a board: each is checked, damaged or copied ones are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unshaken.board.check import Result, read

SCORES = {"SA": "standard", "RA": "robust", "AA": "autoattack", "CA": "corruption_accuracy"}
"""The columns of the board, and the fields of a result. RA is under the PGD that the result names."""


@dataclass(frozen=True)
class Receipt:
    """One checked result file.

    file    its path, as it was given
    beside  the other fields of a submission: date, author, address of the weights
    """

    file: Path
    result: Result
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        return self.result["mode"]

    @property
    def pretrain(self) -> dict[str, Any]:
        return self.result["pretrain"]["recipe"]

    @property
    def finetune(self) -> dict[str, Any]:
        return self.result["finetune"]["recipe"]

    @property
    def seeds(self) -> str:
        return "/".join(str(seed) for seed in self.result["seeds"].values())

    @property
    def date(self) -> str:
        return self.result.get("date") or self.beside.get("date") or ""

    def has(self, metric: str) -> bool:
        return SCORES[metric] in self.result


def receipts(paths: Iterable[Path], dates: dict[Path, str] | None = None) -> list[Receipt]:
    """Return the results at or below the paths. ValueError names the first file that fails a check."""
    found = []
    for file in files(paths):
        try:
            result, beside = read(file.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from None
        known = {"date": dates[file]} if dates and file in dates else {}
        found.append(Receipt(file, result, known | beside))
    if not found:
        raise ValueError(f"there is no result in {', '.join(map(str, paths))}; `unshaken evaluate RUN` writes one")
    refuse_copies(found)
    return once(found)


def files(paths: Iterable[Path]) -> list[Path]:
    """Return result files: those named, and in folders every JSON file that says that it is a result."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}")
        found += [path] if path.is_file() else [file for file in sorted(path.rglob("*.json")) if looks_like(file)]
    return list(dict.fromkeys(found))


def looks_like(file: Path) -> bool:
    """Return whether a JSON file in a folder claims to be a result: a run has other JSON files too."""
    if file.name.startswith("choice"):  # on images held out of training: not a result
        return False
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return file.name.startswith("result")  # it should be one, and reading it raises the error
    return isinstance(content, dict) and ({"standard", "robust"} <= set(content) or "submission" in content)


def refuse_copies(found: list[Receipt]) -> None:
    """Raise ValueError if one network has two seeds or two names: a digest of weights belongs to one run."""
    owner: dict[str, tuple[str, Receipt]] = {}
    for receipt in found:
        result = receipt.result
        if not all(isinstance(seed, int) for seed in trained_with(receipt)):
            continue  # an imported network has no seed, and may be in another row too
        claims = json.dumps([result["method"], receipt.mode, trained_with(receipt)])
        before = owner.setdefault(result["weights"], (claims, receipt))
        if before[0] != claims:
            raise ValueError(
                f"{receipt.file}: its weights ({result['weights'][:8]}) are those of {before[1].file}, under other "
                f"seeds or another name (pre-training and fine-tuning: {receipt.seeds}, and {before[1].seeds})"
            )


def trained_with(receipt: Receipt) -> list[Any]:
    return [receipt.result["seeds"].get(part) for part in ("pretrain", "finetune")]


def once(found: list[Receipt]) -> list[Receipt]:
    """Return each result once: equal contents in two files count once."""
    seen, kept = set(), []
    for receipt in found:
        text = json.dumps(receipt.result, sort_keys=True)
        if text not in seen:
            seen.add(text)
            kept.append(receipt)
    return kept
