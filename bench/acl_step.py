"""One step of ACL: see bench/step.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import step


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    return step.compare("acl", data, rounds, quick)
