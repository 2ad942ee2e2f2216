"""The files of a board: static pages with their data, for a disk or any web server."""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from unshaken.base.amounts import amount
from unshaken.base.atomic_files import is_part, naming, sweep
from unshaken.base.json_files import write_bytes, write_text
from unshaken.base.locks import Lock
from unshaken.board.build import build
from unshaken.board.collect import Receipt
from unshaken.board.runfiles import files_of

PAGES = {
    "index.html": "Board",
    "about.html": "Guide",
    "corrections.html": "Corrections",
    "about.html#submit": "Submit",
}
MARK = "made by `unshaken board`"
"""Content of the file .board of a site: a board is only written into a folder with this file, or an empty one."""
LOCK = ".lock"
"""The lock while a board is written into its folder."""


def write(out: Path, receipts: list[Receipt], published: dict[str, Any], **making: Any) -> dict[str, int]:
    """Write the site, and return the numbers of results and rows. ValueError if the folder holds something else.

    making  arguments of `build`; and pictures: by digest of an image set, small images as data URIs

    If another process is writing a board into the folder, this one waits for it.
    """
    check_folder(out)
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    with Lock(out / LOCK, wait=-1):
        return _write(out, receipts, published, **making)


def _write(out: Path, receipts: list[Receipt], published: dict[str, Any], **making: Any) -> dict[str, int]:
    pictures = making.pop("pictures", {})
    prepare(out)
    board = build(receipts, published, **making)
    details, bits = board.pop("details"), board.pop("bits")
    copies = copy_results(out, receipts)
    beside = {r.file.as_posix(): copy_files(out, r, copies[r.file.as_posix()]) for r in receipts}
    for name, detail in details.items():
        for run in detail["runs"]:
            run["copy"], run["files"] = copies[run["file"]], beside[run["file"]]
        write_text(out / "rows" / f"{name}.js", f"Board.gotRow({text(name)}, {text(detail)});\n")
    for task, held in bits.items():
        write_text(out / "bits" / f"{task}.js", f"Board.gotBits({text(task)}, {text(held)});\n")
    known = {r.result["weights"]: [r.result["method"], r.mode, r.seeds] for r in receipts}
    data = board | {"known": known, "pictures": pictures}
    write_text(out / "data.js", f"window.Board = window.Board || {{}};\nBoard.data = {text(data)};\n")
    for name in ("board.css", *(f"{script}.js" for script in SCRIPTS)):
        write_bytes(out / name, files("unshaken.board").joinpath(f"static/{name}").read_bytes())
    measured = sum(row["kind"] == "measured" for row in board["rows"])
    counts = {"results": len(receipts), "measured": measured, "reported": len(board["rows"]) - measured}
    write_pages(out, board, counts)
    return counts


SCRIPTS = ("theme", "bits", "hash", "check", "charts", "cells", "table", "detail", "cards", "drop", "main")


def check_folder(out: Path) -> None:
    """Raise ValueError if a folder holds anything but a board, or the first files of one that was killed."""
    if out.exists() and not (out.is_dir() and ((out / ".board").exists() or not _foreign(out))):
        raise ValueError(f"{out} holds something else than a board: name another folder by --out")


def _foreign(out: Path) -> list[str]:
    sweep(out, ".board")
    return [file.name for file in out.iterdir() if file.name != LOCK and not is_part(file.name, ".board")]


def prepare(out: Path) -> None:
    """Delete the data of an earlier board from the folder."""
    for folder in ("rows", "bits", "results", "files"):
        shutil.rmtree(out / folder, ignore_errors=True)
    write_text(out / ".board", f"{MARK}\n")


def text(value: Any) -> str:
    """Return JSON that is safe in a script: without </ and without the line separators of old browsers."""
    packed = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return packed.replace("</", "<\\/").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def copy_results(out: Path, receipts: list[Receipt]) -> dict[str, str]:
    """Copy the result files beside the pages; return the copies' names. Two files of one name get two names."""
    found: dict[str, str] = {}
    for receipt in receipts:
        parts = [part for part in receipt.file.parts[-3:] if part not in ("/", "..", ".")]
        name = "-".join(parts)
        if f"results/{name}" in found.values():
            name = f"{len(found)}-{name}"
        write_bytes(out / "results" / name, receipt.file.read_bytes())
        found[receipt.file.as_posix()] = f"results/{name}"
    return found


def copy_files(out: Path, receipt: Receipt, copy: str) -> list[list[str]]:
    """Copy the other files of a result's run; return each copy's title and name."""
    folder, found = f"files/{Path(copy).stem}", []
    for title, name, content in files_of(receipt):
        write_bytes(out / folder / name, content)
        found.append([title, f"{folder}/{name}"])
    return found


def write_pages(out: Path, board: dict[str, Any], counts: dict[str, int]) -> None:
    from jinja2 import Environment, FileSystemLoader

    corrections = [each | {"number": k} for k, each in enumerate(board["corrections"])]
    values = {
        "summary": "{measured} rows measured from {results} results, {reported} reported.".format(**counts),
        "pages": list(PAGES.items()),
        "counts": counts,
        "sources": board["sources"],
        "corrections": sorted(corrections, key=lambda each: each["date"], reverse=True),
        "tasks": plain_tasks(board),
    }
    with as_file(files("unshaken.board").joinpath("templates")) as folder:
        env = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        env.filters |= {"cell": cell_words, "cost": cost_words}
        for page in ("index", "about", "corrections", "plain"):
            html = env.get_template(f"{page}.html.j2").render(here=f"{page}.html", **values)
            write_text(out / f"{page}.html", html)


def plain_tasks(board: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for task in board["tasks"]:
        rows = [row for row in board["rows"] if row["task"] == task["key"]]
        held = {metric for row in rows for cells in row["cells"].values() for metric in cells}
        found.append(task | {"rows": rows, "metrics": [m for m in ("AA", "RA", "CA", "SA") if m in held]})
    return found


def cell_words(cell: dict[str, Any] | None) -> str:
    """Return a cell as text: 82.85 ± 0.26 (3 seeds, n = 445)."""
    if not cell:
        return "–"
    if "mean" not in cell:
        return "missing" if "status" in cell else "–"
    spread = f" ± {cell['sd']:.2f}" if "sd" in cell else ""
    seeds = f" ({amount(cell['seeds'], 'seed')}" if "seeds" in cell else ""
    n = f", n = {cell['n']}" if "n" in cell else ""
    return f"{cell['mean']:.2f}{spread}{seeds}{n}{')' if seeds else ''}"


def cost_words(cost: dict[str, Any]) -> str:
    if "seconds" not in cost:
        return "–"
    seconds = cost["seconds"]
    unit = (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )
    return f"{unit}, {cost['device']}" if "device" in cost else unit
