"""`unshaken demo`: the main job on digits, and its table."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from unshaken.base.json_files import write_text
from unshaken.compute.runtime import Runtime
from unshaken.options import parse
from unshaken.report.table import markdown, show, summary
from unshaken.runs.demo import demo as demonstrate
from unshaken.runs.workspace import Workspace


@dataclass(frozen=True)
class DemoOptions:
    """CL, ACL and ACL-AIR on digits: pre-training, SLF, ALF and AFF, standard and robust accuracy."""

    out: Path = Path("demo")
    """Where runs, summary.json and table.md go."""
    runtime: Runtime = Runtime(precision="auto")
    """Trained in bf16 where the processor multiplies in it; every verdict is float32 all the same."""


def demo(args: list[str]) -> None:
    options = parse(DemoOptions(), args, "unshaken demo")
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    # bars where they can live, else a line before and after each part
    workspace = Workspace(options.out / "runs", options.runtime, quiet=not sys.stderr.isatty())
    results = list(demonstrate(workspace, tell=tell))
    write_text(options.out / "summary.json", json.dumps(summary(results), indent=1) + "\n")  # for other programs
    write_text(options.out / "table.md", markdown(results))
    show(results)
    print(f"{options.out}/summary.json and {options.out}/table.md hold this; every run lies under {options.out}/runs")
