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
SEEDS = 3
"""The largest seed of the page."""
HEADER = """\
| encoder | mode | seed | SA | RA | RA 95 % | AA | seconds of pre-training, fine-tuning |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
PAIRS_HEADER = """\
| A | B | seed | score | A correct | B correct | A better on, B better on | n | p | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
OF_FROZEN = (
    ("acl", "simclr"), ("acl", "deacl"), ("acl", "acl-air-kl"), ("acl", "acl-air-normalized"),
    ("acl", "acl-air-released"), ("acl", "dynacl-plain"), ("acl-rcs", "acl-chance"), ("acl", "acl-rcs"),
)  # fmt: skip
OF_WHOLE = (("simclr", "untrained"), ("acl", "untrained"), ("deacl", "untrained"), ("acl", "simclr"))
PAIRS = {
    "slf": OF_FROZEN,
    "alf": OF_FROZEN,
    "aff": OF_WHOLE,
    "few": OF_WHOLE,
}
"""The comparisons of the page, by mode of fine-tuning."""


Found = dict[tuple[str, str, int], dict[str, Any]]
"""Results by row, mode and seed."""


def results(folder: Path = RESULTS) -> Found:
    """Return the results in the order of the rows; of a row by mode, then by seed."""
    names = [(row, mode.partition("+")[0]) for row, made in ROWS.items() for mode in sorted(made.modes, reverse=True)]
    files = {
        (*name, seed): folder / f"{'-'.join(name)}-seed{seed}.json" for name in names for seed in range(1, SEEDS + 1)
    }
    return {name: read_json(file) for name, file in files.items() if file.exists()}


def count(score: dict[str, Any] | None) -> str:
    return f"{score['percent']:.1f} % ({score['correct']:,} of {score['n']:,})" if score else "–"


def table(found: Found, mode: str) -> str:
    """Return the scores of one mode of fine-tuning as Markdown."""
    lines = []
    for (row, kind, seed), one in found.items():
        if kind == mode:
            low, high = one["robust"]["interval95"]
            cells = [row, kind.upper(), f"{seed}", count(one["standard"]), count(one["robust"])]
            cells += [f"{low:.1f} to {high:.1f}", count(one.get("autoattack")), ", ".join(seconds(one))]
            lines.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(lines)


def seconds(one: dict[str, Any]) -> list[str]:
    return [f"{one['seconds'][part]:,.0f}" for part in ("pretrain", "finetune")]


def pairs(found: Found, mode: str) -> str:
    """Return the paired tests of one mode of fine-tuning, for each seed that both rows have, as Markdown."""
    lines = []
    for names in PAIRS[mode]:
        for seed in range(1, SEEDS + 1):
            if all((name, mode, seed) in found for name in names):
                for one in tests(*(found[name, mode, seed] for name in names)):
                    word = "tie" if one.p >= LEVEL else f"{names[one.b_better > one.a_better]} is better"
                    cells = [*names, f"{seed}", one.score, f"{one.a:,}", f"{one.b:,}"]
                    chance = f"{one.p:.2g}" if one.p else "< 1e-300"
                    cells += [f"{one.a_better:,}, {one.b_better:,}", f"{one.n:,}", chance, word]
                    lines.append(f"| {' | '.join(cells)} |\n")
    return PAIRS_HEADER + "".join(lines)


def tests(a: dict[str, Any], b: dict[str, Any]) -> Iterable[Paired]:
    """Yield the paired tests of two results; the rows from scratch were fine-tuned for longer, on purpose."""
    return (one for one in compared(a, b, anyway=True) if isinstance(one, Paired))


def figure(found: Found) -> str:
    """Return the robust accuracies as an SVG."""
    rows = [
        (f"{row}, {mode.upper()}, seed {seed}", one["robust"]["percent"], *one["robust"]["interval95"])
        for (row, mode, seed), one in found.items()
    ]
    return bars(rows, "CIFAR-10: accuracy under PGD-20 at 8/255", most=40, alone=True)


def filled(page: str, found: Found) -> str:
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
