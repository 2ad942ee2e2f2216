"""The tables and the figure of docs/evidence.md, and the table of the README, from the results in results/cifar10.

python -m bench.evidence_page      # writes docs/evidence.svg, and the tables into docs/evidence.md and README.md
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
README = Path("README.md")
MAIN = ("untrained", "simclr", "deacl", "acl", "dynacl-plain")
"""The rows of the README's table."""
SEEDS = 3
"""The largest seed of the page."""
HEADER = """\
| encoder | mode | seed | SA | RA | RA 95 % | AA | seconds of pre-training, fine-tuning |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
MODES = {"slf": "SLF", "alf": "ALF", "few": "AFF, few labels", "few-long": "the same, 50 epochs", "aff": "AFF"}
"""The modes of fine-tuning whose means are beside each other, by name."""
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
    "few": (*OF_WHOLE, ("acl", "untrained:few-long"), ("deacl", "untrained:few-long")),
}
"""The comparisons of the page, by mode of fine-tuning; a name may have another mode after a colon."""


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
        if kind.removesuffix("-long") == mode:
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
            both = [(row, other or mode, seed) for row, _, other in (name.partition(":") for name in names)]
            if all(one in found for one in both):
                for one in tests(*(found[one] for one in both)):
                    word = "tie" if one.p >= LEVEL else f"{names[one.b_better > one.a_better]} is better"
                    cells = [*names, f"{seed}", one.score, f"{one.a:,}", f"{one.b:,}"]
                    chance = f"{one.p:.2g}" if one.p else "< 1e-300"
                    cells += [f"{one.a_better:,}, {one.b_better:,}", f"{one.n:,}", chance, word]
                    lines.append(f"| {' | '.join(cells)} |\n")
    return PAIRS_HEADER + "".join(lines)


def tests(a: dict[str, Any], b: dict[str, Any]) -> Iterable[Paired]:
    """Yield the paired tests of two results; the rows from scratch were fine-tuned for longer, on purpose."""
    return (one for one in compared(a, b, anyway=True) if isinstance(one, Paired))


def of_seeds(found: Found, row: str, mode: str) -> list[dict[str, Any]]:
    """Return the results of all seeds of a row and mode."""
    return [one for (other, kind, _), one in found.items() if (other, kind) == (row, mode)]


def mean(made: list[dict[str, Any]], score: str) -> float:
    return sum(one[score]["percent"] for one in made) / len(made)


def means(found: Found, only: tuple[str, ...] = ()) -> str:
    """Return the mean accuracies of each encoder's seeds as Markdown: clean, under PGD-20, and the number of seeds.

    only  the rows; none: all
    """
    lines = [f"| encoder | {' | '.join(MODES.values())} |\n", f"| --- |{' --- |' * len(MODES)}\n"]
    for row in only or dict.fromkeys(row for row, _, _ in found):
        made = [of_seeds(found, row, mode) for mode in MODES]
        cells = [f"{mean(m, 'standard'):.1f}, **{mean(m, 'robust'):.1f}** ({len(m)})" if m else "–" for m in made]
        lines.append(f"| {row} | {' | '.join(cells)} |\n")
    return "".join(lines)


def figure(found: Found) -> str:
    """Return the mean robust accuracies as an SVG, with lines over the intervals of all seeds."""
    rows = []
    for mode, words in MODES.items():
        for row in dict.fromkeys(row for row, _, _ in found):
            if made := [one["robust"] for one in of_seeds(found, row, mode)]:
                low, high = zip(*(one["interval95"] for one in made), strict=True)
                rows.append(
                    (
                        f"{row}, {words} ({len(made)})",
                        mean([{"robust": one} for one in made], "robust"),
                        min(low),
                        max(high),
                    )
                )
    return bars(rows, "CIFAR-10: accuracy under PGD-20 at 8/255, means of seeds", most=32, alone=True)


def filled(page: str, found: Found) -> str:
    """Return a page with those of the tables that it has: each is between <!-- NAME --> and <!-- end -->."""
    parts = {f"{part.__name__} {mode}": part(found, mode) for mode in PAIRS for part in (table, pairs)}
    parts |= {"means": means(found), "main means": means(found, MAIN)}
    for name, text in parts.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        if mark:
            page = f"{before}{mark}{text}{rest[rest.index('<!-- end -->') :]}"
    return page


def main() -> None:
    found = results()
    FIGURE.write_text(figure(found))
    for page in (PAGE, README):
        page.write_text(filled(page.read_text(), found))


if __name__ == "__main__":
    main()
