"""The bars and curves of a run's page as a PNG or PDF, by matplotlib (extra `plots`)."""

from __future__ import annotations

from pathlib import Path

from unshaken.board.collect import Receipt
from unshaken.board.runpage import run_names, score_rows
from unshaken.charts.curve import curves, read_log
from unshaken.charts.svg import COLOURS

SUFFIXES = (".png", ".pdf")


def save_figure(found: list[Receipt], out: Path) -> None:
    """Write the figure in the format that the file's name asks for. ValueError without matplotlib."""
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a figure is a file that ends in {' or '.join(SUFFIXES)}, not {out.name!r}")
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--png and --pdf need matplotlib: pip install 'unshaken[plots]'") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    names = run_names(found)
    scores = list(dict.fromkeys(words.partition(",")[0] for each in found for words, *_ in score_rows(each.result)))
    logs = [[x for x in read_log(each.file.parent.parent / "log.jsonl") if "epoch" in x] for each in found]
    drawn = any(len(lines) > 1 for lines in logs)
    figure, axes = pyplot.subplots(1, 1 + drawn, figsize=(5 + 4.5 * drawn, 0.9 + 0.32 * len(found) * len(scores) + 1.2))
    bars = axes[0] if drawn else axes
    for k, (each, name) in enumerate(zip(found, names, strict=True)):
        for i, (_, mean, low, high) in enumerate(score_rows(each.result)):
            y = i * (len(found) + 1) + k
            error = [[mean - low], [high - mean]]
            bars.barh(y, mean, xerr=error, color=COLOURS[k % len(COLOURS)], label=name if i == 0 else None, height=0.8)
    middle = (len(found) - 1) / 2
    bars.set_yticks([i * (len(found) + 1) + middle for i in range(len(scores))], scores)
    bars.invert_yaxis()
    bars.set_xlim(0, 100)
    bars.set_xlabel("accuracy, % (95 % intervals)")
    bars.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    for k, (lines, name) in enumerate(zip(logs, names, strict=True) if drawn else ()):
        for points in curves(lines).get("loss", {}).values():
            axes[1].plot(*zip(*points, strict=True), color=COLOURS[k % len(COLOURS)], linewidth=1.2, label=name)
    if drawn:
        axes[1].set_xlabel("epoch")
        axes[1].set_ylabel("loss of pre-training")
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=200, bbox_inches="tight", metadata={"CreationDate": None} if out.suffix == ".pdf" else None)
    pyplot.close(figure)
