"""`unshaken demo`: pre-train, fine-tune and evaluate on digits, and print the table."""

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
    """Pre-train digits by CL, ACL and ACL-AIR, fine-tune by SLF, ALF and AFF, and measure robust accuracy."""

    out: Path = Path("demo")
    """Folder for the runs, summary.json and table.md."""
    runtime: Runtime = Runtime(precision="auto")
    """Training uses bf16 where the processor has it; every verdict is float32."""


def demo(args: list[str]) -> None:
    options = parse(DemoOptions(), args, "unshaken demo")
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    # Progress bars need a terminal; elsewhere there is a line before and after each step.
    workspace = Workspace(options.out / "runs", options.runtime, quiet=not sys.stderr.isatty())
    results = list(demonstrate(workspace, tell=tell))
    write_text(options.out / "summary.json", json.dumps(summary(results), indent=1) + "\n")  # for other programs
    write_text(options.out / "table.md", markdown(results))
    show(results)
    print(f"{options.out}/summary.json and {options.out}/table.md hold this; every run lies under {options.out}/runs")
