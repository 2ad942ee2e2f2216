"""The tables and the figure of docs/evidence.md, from the results in results/cifar10.

python -m bench.evidence_page      # writes docs/evidence.svg, and the tables into docs/evidence.md
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.evidence import ROWS
from unshaken.base.json_files import read_json
from unshaken.charts.svg import bars
from unshaken.report.compare import LEVEL, Paired, compared

RESULTS, PAGE, FIGURE = Path("results/cifar10"), Path("docs/evidence.md"), Path("docs/evidence.svg")
HEADER = """\
| encoder | mode | SA | RA | RA 95 % | AA | seconds of pre-training, fine-tuning |
| --- | --- | --- | --- | --- | --- | --- |
"""
PAIRS_HEADER = """\
| A | B | mode | score | A correct | B correct | A better on, B better on | n | p | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
PAIRS = {
    "slf": (
        ("acl", "simclr"), ("acl", "deacl"), ("acl", "acl-air-kl"), ("acl", "acl-air-normalized"),
        ("acl", "acl-air-released"), ("acl", "dynacl-plain"), ("acl-rcs", "acl-chance"), ("acl", "acl-rcs"),
    ),
    "aff": (("simclr", "untrained"), ("acl", "untrained"), ("deacl", "untrained"), ("acl", "simclr")),
}  # fmt: skip
"""The comparisons of the page, by mode of fine-tuning."""


def results(folder: Path = RESULTS, seed: int = 1) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the results of one seed by row and mode, in the order of the rows."""
    names = [(row, mode.partition("+")[0]) for row, made in ROWS.items() for mode in sorted(made.modes, reverse=True)]
    files = {name: folder / f"{'-'.join(name)}-seed{seed}.json" for name in names}
    return {name: read_json(file) for name, file in files.items() if file.exists()}


def count(score: dict[str, Any] | None) -> str:
    return f"{score['percent']:.1f} % ({score['correct']:,} of {score['n']:,})" if score else "–"


def table(found: dict[tuple[str, str], dict[str, Any]], mode: str) -> str:
    """Return the scores of one mode of fine-tuning as Markdown."""
    lines = []
    for (row, kind), one in found.items():
        if kind == mode:
            low, high = one["robust"]["interval95"]
            cells = [row, kind.upper(), count(one["standard"]), count(one["robust"]), f"{low:.1f} to {high:.1f}"]
            cells += [count(one.get("autoattack")), ", ".join(seconds(one))]
            lines.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(lines)


def seconds(one: dict[str, Any]) -> list[str]:
    return [f"{one['seconds'][part]:,.0f}" for part in ("pretrain", "finetune")]


def pairs(found: dict[tuple[str, str], dict[str, Any]], mode: str) -> str:
    """Return the paired tests of one mode of fine-tuning as Markdown."""
    lines = []
    for names in PAIRS[mode]:
        if all((name, mode) in found for name in names):
            for one in tests(*(found[name, mode] for name in names)):
                word = "tie" if one.p >= LEVEL else f"{names[one.b_better > one.a_better]} is better"
                cells = [*names, mode.upper(), one.score, f"{one.a:,}", f"{one.b:,}"]
                chance = f"{one.p:.2g}" if one.p else "< 1e-300"
                cells += [f"{one.a_better:,}, {one.b_better:,}", f"{one.n:,}", chance, word]
                lines.append(f"| {' | '.join(cells)} |\n")
    return PAIRS_HEADER + "".join(lines)


def tests(a: dict[str, Any], b: dict[str, Any]) -> Iterable[Paired]:
    """Yield the paired tests of two results; the rows from scratch were fine-tuned for longer, on purpose."""
    return (one for one in compared(a, b, anyway=True) if isinstance(one, Paired))


def figure(found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Return the robust accuracies as an SVG."""
    rows = [
        (f"{row}, {mode.upper()}", one["robust"]["percent"], *one["robust"]["interval95"])
        for (row, mode), one in found.items()
    ]
    return bars(rows, "CIFAR-10: accuracy under PGD-20 at 8/255", most=40, alone=True)


def filled(page: str, found: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Return the page with its tables: each is between <!-- NAME --> and <!-- end -->."""
    parts = {f"{part.__name__} {mode}": part(found, mode) for mode in PAIRS for part in (table, pairs)}
    for name, text in parts.items():
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        page = f"{before}<!-- {name} -->\n{text}{rest[rest.index('<!-- end -->') :]}"
    return page


def main() -> None:
    found = results()
    FIGURE.write_text(figure(found))
    PAGE.write_text(filled(PAGE.read_text(), found))


if __name__ == "__main__":
    main()
