"""`unshaken board` and `unshaken submit`: a site of results, and one file of a run for it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from unshaken.base.amounts import amount
from unshaken.board.collect import files, receipts
from unshaken.board.pictures import pictures_of
from unshaken.board.remake import commands
from unshaken.board.reported import published
from unshaken.board.site import write
from unshaken.board.submit import submission, write_submission
from unshaken.commands.operations import pflop_of
from unshaken.options import parse


@dataclass(frozen=True)
class BoardOptions:
    """Make static pages from results: tables with ranks by paired tests, beside published numbers."""

    results: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Result files, or folders that are searched for results."""
    out: Path = Path("site")
    """Folder of the site. A folder with other files is refused."""
    reported: Path | None = None
    """File of published numbers to show instead of the package's own (board/reported.json), in the same form."""
    count: bool = True
    """Count the floating-point operations of each row's pre-training; this takes seconds per row."""


@dataclass(frozen=True)
class SubmitOptions:
    """Write a run's result as one file to send to a board, or check such files."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folder of a fine-tuning run, or its result file. With --check: any number of submissions or results."""
    by: str = ""
    """Name of the submitter, as the board shows it."""
    weights: str = ""
    """Address of the run's classifier.safetensors, so that others can attack it again."""
    out: Path | None = None
    """File to write; by default submission-METHOD-MODE-seedS.json."""
    check: bool = False
    """Check files, and write nothing."""


def board(args: list[str]) -> None:
    options = parse(BoardOptions(), args, "unshaken board")
    if not options.results:
        raise ValueError("`unshaken board` needs result files or folders: unshaken board results --out site")
    found = receipts(options.results, dates_of(files(options.results)))
    making = {"remake": commands, "count": pflop_of if options.count else lambda row: None}
    counts = write(options.out, found, published(options.reported), pictures=pictures_of(found), **making)
    rows = amount(counts["measured"], "row")
    said = f"{amount(counts['results'], 'result')}, {rows} measured, {counts['reported']} reported"
    print(f"{options.out / 'index.html'}  ({said})")


def submit(args: list[str]) -> None:
    options = parse(SubmitOptions(), args, "unshaken submit")
    if not options.run:
        raise ValueError("`unshaken submit` needs a run: unshaken submit RUN --by NAME")
    if options.check:
        for receipt in receipts(options.run):
            score = receipt.result["robust"]
            print(f"{receipt.file}: agrees with itself ({score['correct']} of {score['n']} robust)")
        return
    if len(options.run) > 1:
        raise ValueError("`unshaken submit` takes one run at a time")
    content = submission(options.run[0], options.by, options.weights)  # pyright: ignore[reportGeneralTypeIssues]
    print(write_submission(content, options.out))
    print("next: a pull request that adds it to results/submitted/, or an issue with its text", file=sys.stderr)


def dates_of(found: list[Path]) -> dict[Path, str]:
    """Return the day on which each file was first committed, where the files lie in a git checkout."""
    dates: dict[Path, str] = {}
    for folder in dict.fromkeys(file.parent for file in found):
        asked = ["log", "--format=@%as", "--name-only", "--diff-filter=A", "--relative", "--", "."]
        try:
            said = subprocess.run(["git", "-C", str(folder), *asked], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        day = ""
        for line in said.stdout.splitlines() if said.returncode == 0 else ():
            if line.startswith("@"):
                day = line[1:]
            elif line:
                dates[folder / line] = day
    return dates
