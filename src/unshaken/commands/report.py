"""`unshaken report` as a page or a figure; its tables need no torch and are in cli.py."""

from __future__ import annotations

from unshaken.board.collect import receipts
from unshaken.board.plots import save_figure
from unshaken.board.runpage import write_page
from unshaken.options import parse
from unshaken.report.table import ReportOptions


def report(args: list[str]) -> None:
    options = parse(ReportOptions(), args, "unshaken report")
    if not options.runs:
        raise ValueError("`unshaken report` needs one or more runs, folders of runs or result files")
    if options.html:
        if options.html.suffix.lower() not in (".html", ".htm"):  # a typo would overwrite a file of the run
            raise ValueError(f"--html takes a file that ends in .html, not {options.html.name!r}")
        write_page(list(options.runs), options.html)
        print(options.html)
    for file, kind in ((options.png, ".png"), (options.pdf, ".pdf")):
        if file:
            if file.suffix.lower() != kind:
                raise ValueError(f"--{kind[1:]} takes a file that ends in {kind}, not {file.name!r}")
            save_figure(receipts(options.runs), file)
            print(file)
