"""The last line of a run on stderr: what it reached, and how long it took"""

from __future__ import annotations

import sys
from pathlib import Path

from unshaken.base.amounts import amount
from unshaken.base.json_files import Lines, read_json
from unshaken.base.progress import format_duration
from unshaken.train.run_dir import RUN_FILE


def closing(run: Path) -> str:
    """Return the epochs, the seconds, and the loss at the start and at the end of a finished run."""
    end = read_json(run / "run.json", RUN_FILE)
    log = Lines(run / "log.jsonl").values if (run / "log.jsonl").exists() else []
    parts = []
    if log and "epoch" in log[-1]:
        epochs = log[-1]["epoch"]
        parts.append(f"{amount(epochs, 'epoch')}")
    if end["seconds"] is not None:
        parts.append(f"{format_duration(end['seconds'])} of training")
    if losses := [line["loss"] for line in log if "loss" in line]:
        first = f" ({losses[0]:.3g} at first)" if len(losses) > 1 else ""
        parts.append(f"loss {losses[-1]:.3g}{first}")
    if (run / "curve.svg").exists():
        parts.append(f"curves in {run / 'curve.svg'}")
    return f"{run.name}: {', '.join(parts) or 'finished'}"


def close(run: Path, file: str, following: str) -> None:
    """Print how a run ended, its file with its digest, and the command that usually follows."""
    print(closing(run), file=sys.stderr)
    print(f"{run}/{file}  digest {read_json(run / 'run.json', RUN_FILE)['digest']}")
    print(f"next: {following}")
