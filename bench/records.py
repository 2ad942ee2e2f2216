"""Kept results: a file for each comparison, with the latest result of each processor, and a table of them all."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
CAPABILITIES = (("AMX", "amx_tile"), ("AVX-512", "avx512f"), ("AVX2", "avx2"))
"""Instructions by which processors differ here, the widest first, and the flags by which Linux names them."""


def processor() -> str:
    """Name the processor and its widest vector instructions, as far as the system says them."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    fields = dict(reversed([[word.strip() for word in line.split(":", 1)] for line in lines if ":" in line]))
    flags = fields.get("flags", "").split()
    widest = next((name for name, flag in CAPABILITIES if flag in flags), torch.backends.cpu.get_cpu_capability())
    return f"{fields.get('model name') or platform.machine()}, {widest}"


def load() -> float | None:
    """Return how many processes want a core, averaged over a minute; None where the system does not say."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def about(before: float | None) -> dict[str, Any]:
    """Return when and where a result was measured, and the machine's load before and after."""
    return {"date": datetime.now(UTC).date().isoformat(), "processor": processor(), "load": [before, load()]}


def read(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the kept results of a comparison, one for each processor."""
    file = folder / f"{name}.json"
    found = json.loads(file.read_text()) if file.exists() else []
    return found if isinstance(found, list) else [found]


def keep(result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write a result beside those of other processors; it replaces the one of the same processor and device."""
    kept = [other for other in read(result["name"], folder) if place(other) != place(result)]
    (folder / f"{result['name']}.json").write_text(json.dumps([*kept, result], indent=1) + "\n")


def place(result: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells the machines of results apart."""
    return (result.get("processor"), result.get("world", {}).get("device"))


def report(folder: Path = RESULTS) -> str:
    """Return all kept results as a Markdown table: the ratio of each comparison, with its precision and processor."""
    head = (
        "| comparison | precision | ratio | n | processor | load | date |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    names = sorted(file.stem for file in folder.glob("*.json"))
    return "\n".join([head, *(row for name in names for result in read(name, folder) for row in rows(result))])


def rows(result: dict[str, Any]) -> list[str]:
    """Return the lines of one result: its ratio, and that in float32 if it has both. A result may be no comparison."""
    if "ratio" not in result:
        return []
    world = result.get("world", {})
    parts = {result.get("side") or world.get("precision", ""): result}
    if isinstance(result.get("float32"), dict) and "ratio" in result["float32"]:
        parts["float32"] = {**result["float32"], "n": result["float32"].get("n", result["n"])}
    where = result.get("processor") or world.get("device", "")
    busy = "-" if not result.get("load") else " to ".join(str(one) for one in result["load"])
    return [
        f"| `{result['name']}` | {precision} | {part['ratio']}{_spread(part)} | {part['n']} | {where} | {busy} | "
        f"{result.get('date', '-')} |"
        for precision, part in parts.items()
    ]


def _spread(part: dict[str, Any]) -> str:
    return f" [{part['spread'][0]}, {part['spread'][1]}]" if part.get("spread") else ""
