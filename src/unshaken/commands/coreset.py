"""`unshaken coreset show`: the images of each selection, in a table and contact sheets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unshaken.base.json_files import naming
from unshaken.base.ranges import Count, ranged
from unshaken.options import parse, subject
from unshaken.report.contact_sheet import contact_sheet
from unshaken.report.records import TableOptions
from unshaken.report.selection_table import CLASS_COLUMNS, CLASS_LEGEND, COLUMNS, LEGEND, Selection, rows
from unshaken.report.table import display
from unshaken.runs.selections import selections_in


@dataclass(frozen=True)
@ranged
class CoresetOptions(TableOptions):
    """Show the images of each selection: a table of classes and overlaps, and a contact sheet."""

    images: Count = 200
    """Largest number of images on a sheet; the sheet shows the first selected ones."""
    out: Path | None = None
    """Folder of coreset-EPOCH.png; by default the run's own."""


def coreset(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print("usage: unshaken coreset show RUN [OPTIONS]\n\nOptions: unshaken coreset show RUN --help")
        raise SystemExit(0)
    if not args or args[0] not in WORDS:
        given = f", not {args[0]!r}" if args else ""
        raise ValueError(f"`unshaken coreset` needs one of these next: {', '.join(WORDS)}{given}")
    WORDS[args[0]](args[1:])


def show(args: list[str]) -> None:
    name, rest = subject(args, "coreset show", "RUN", "the folder of a pre-training run on a coreset", CoresetOptions())
    options = parse(CoresetOptions(), rest, f"unshaken coreset show {name}")
    if options.images < 1:
        raise ValueError(f"a sheet has at least 1 image, not {options.images}")
    found, candidates, images = selections_in(Path(name))
    selections = [Selection(*each) for each in found.values()]
    for file, selection in zip(found, selections, strict=True):
        picture = (options.out or file.parent) / f"{file.stem}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        with naming(picture):
            contact_sheet(images.pixels[list(selection.index[: options.images])].numpy()).save(picture)
        print(picture, file=sys.stderr)
    label = None if images.label is None else images.label.tolist()
    table = rows(selections, candidates, label, images.names)
    columns, legend = (COLUMNS, LEGEND) if label is None else (COLUMNS + CLASS_COLUMNS, LEGEND + CLASS_LEGEND)
    display(columns, table, legend, options)


WORDS: dict[str, Callable[[list[str]], None]] = {"show": show}
