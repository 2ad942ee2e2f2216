"""The page of a check-up: one table, with a second encoder beside the first, and the worst images"""

from __future__ import annotations

import base64
from html import escape
from typing import Any

COLUMNS = (
    ("identity lost", "lost", lambda v: f"{v['percent']:.1f} %"),
    ("95 %", "lost", lambda v: f"{v['low']:.0f} to {v['high']:.0f}"),
    ("relative drift, median", "relative", lambda v: f"{v['median']:.2f}"),
    ("worst", "relative", lambda v: f"{v['worst']:.2f}"),
    ("top 10 kept", "kept", lambda v: f"{100 * v['mean']:.0f} %"),
    ("neighbour flip", "flipped", lambda v: f"{v['percent']:.0f} %"),
    ("hash bits flipped", "bits", lambda v: f"{100 * v['median']:.1f} %"),
    ("1 − cos, median", "cosine", lambda v: f"{v['median']:.3f}"),
)
"""Title, entry of a change's numbers, and how it is written."""
LEGEND = (
    "Identity lost: another image of the gallery is nearer to the changed image than its original. "
    "Relative drift: how far the embedding moved, in units of the distance to the nearest other image; below 0.5 the "
    "identity cannot be lost. Top 10 kept: share of the ten nearest images that stay among the ten. Neighbour flip is "
    "very sensitive and misleads alone. Noise of the same size beside each attack tells how much the search for a "
    "direction adds."
)
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}"
    "body{color:#222;background:#fff}"
    "table{border-collapse:collapse}th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}img{max-width:100%}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}th,td{border-color:#444}}"
)


def rows(report: dict[str, Any], before: dict[str, Any] | None = None) -> list[tuple[str, ...]]:
    """Return a row for each change. With a report from before, each cell shows both: before → now."""
    earlier = {each["change"]: each for each in before["changes"]} if before else {}
    found = []
    for each in report["changes"]:
        cells = []
        for _, name, written in COLUMNS:
            now = written(each[name])
            other = earlier.get(each["change"])
            cells.append(f"{written(other[name])} → {now}" if other else now)
        found.append((each["change"], *cells))
    return found


def summary(report: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """Return the table in plain text for a terminal: the change, identity lost, and top 10 kept."""
    table = [("change", *(title for title, *_ in COLUMNS)), *rows(report, before)]
    shown = [[row[0], row[1], row[3], row[5]] for row in table]
    width = [max(len(row[k]) for row in shown) for k in range(4)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, width, strict=True))
        )
        for row in shown
    )


def page(report: dict[str, Any], before: dict[str, Any] | None = None, sheet: bytes | None = None) -> str:
    """Return the page as HTML without any other file. Text from files is escaped.

    sheet  a PNG of the worst images, each followed by its attacked form
    """
    names = [escape(str(each["encoder"]["name"])) for each in (before, report) if each]
    head = "".join(f"<th>{escape(title)}</th>" for title in ("change", *(title for title, *_ in COLUMNS)))
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows(report, before))
    data, yard = report["data"], report["yardsticks"]
    about = (
        f"{data['queries']} of {data['gallery']} images of {escape(str(data['name']))} at {report['side']} pixels; "
        f"embeddings compared by {escape(report['checkup']['metric'])}. Median cosine between nearest neighbours "
        f"{yard['neighbour']:.3f}, between random images {yard['random']:.3f}."
    )
    image = ""
    if sheet is not None:
        text = base64.b64encode(sheet).decode()
        image = (
            "<h2>Images that the attack moved furthest, each with its attacked form</h2>"
            f'<img alt="pairs of an image and its attacked form" src="data:image/png;base64,{text}">'
        )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Check-up of {names[-1]}</title><style>{STYLE}</style>"
        f"<h1>Check-up: {' → '.join(names)}</h1><p>{about}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{LEGEND}</p>{image}</html>\n"
    )
