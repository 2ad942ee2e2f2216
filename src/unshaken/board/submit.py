"""The file of a submission: a run's result, author, address, and a checksum of everything."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unshaken.base.checksum import FIELD
from unshaken.base.json_files import read_foreign_json, with_checksum, write_json
from unshaken.base.safe_text import without_paths
from unshaken.board.check import fault

LAYOUT = 1
"""Version of the layout of submissions."""


def submission(run: Path, by: str = "", weights: str = "") -> dict[str, Any]:
    """Return the content of the file, without paths of this machine.

    ValueError if the run has no result, or an inconsistent one.
    """
    file = run if run.is_file() else run / "result.json"
    if not file.exists():
        raise ValueError(f"there is no result in {run}: `unshaken evaluate {run}` writes one")
    result = read_foreign_json(file)  # with its own checksum, which is checked with the rest
    if wrong := fault(result):
        raise ValueError(f"{file}: {wrong}")
    if weights and not weights.startswith(("https://", "http://")):
        raise ValueError(f"--weights is an address such as https://example.org/classifier.safetensors, not {weights!r}")
    day = datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
    return {"submission": LAYOUT, "date": day, "by": by, "weights_url": weights, "result": without_local_paths(result)}


def without_local_paths(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result whose recipes name data by the last part of its path, with a checksum of its own.

    Verdict bits are left as they are: in base 64 they may look like a path.
    """
    kept = {key: value for key, value in result.items() if key != FIELD}
    return with_checksum(kept | {key: without_paths(kept[key]) for key in ("pretrain", "finetune") if key in kept})


def write_submission(content: dict[str, Any], out: Path | None = None) -> Path:
    result = content["result"]
    seeds = "-".join(str(seed) for seed in dict.fromkeys(result["seeds"].values()))
    name = "".join(c if c.isalnum() or c in "-+." else "-" for c in f"{result['method']}-{result['mode']}")
    file = out or Path(f"submission-{name}-seed{seeds}.json")
    write_json(file, content)
    return file
