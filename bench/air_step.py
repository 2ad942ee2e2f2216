"""One step of ACL with AIR: see bench/step.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import step


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    return step.compare("acl-air", data, rounds, quick)
