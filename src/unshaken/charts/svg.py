"""SVG charts: bars with intervals, panels of lines, heat maps, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, isfinite, log10

Points = Sequence[tuple[float, float]]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom; y grows downwards."""
COLOURS = ("#2f8fd8", "#e08214", "#1aa179", "#a678d8", "#cc6fa8", "#c0504d", "#8a8f98", "#b59b00")
"""Colours of the series: mid-tones, which stand out from white and from black."""
STYLE = """
.chart{--card:#fff;--ink:#1c1f24;--soft:#596069;--line:#e3e1db;--accent:#0f6e68;font:12px system-ui,Arial,sans-serif}
@media (prefers-color-scheme:dark){.chart{--card:#171b1e;--ink:#e8eaec;--soft:#a7b0b8;--line:#2a3035;--accent:#5cc9bd}}
"""
"""Colours for a chart in a file of its own. A page with charts sets them itself."""
RULES = """
.chart .back{fill:var(--card)} .chart text{fill:var(--soft);stroke:none} .chart .ink{fill:var(--ink)}
.chart .strong{fill:var(--ink);font-weight:600} .chart .grid{stroke:var(--line)} .chart .axis{stroke:var(--soft)}
.chart .bar{fill:var(--accent);opacity:.85} .chart .bar.second{fill:#e08214}
.chart .whisker{stroke:var(--ink);stroke-width:1.6}
.chart path{fill:none;stroke-width:1.8;stroke-linejoin:round}
"""


def document(body: Sequence[str], width: float, height: float, title: str, alone: bool = False) -> str:
    """Return a chart as SVG text. alone: with colours and a background, for a file of its own."""
    style = f"<style>{STYLE}{RULES}</style>" if alone else ""
    background = f'<rect class="back" width="{width:g}" height="{height:g}" rx="8"/>' if alone else ""
    size = f' width="{width:g}" height="{height:g}"' if alone else ""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width:g} {height:g}"{size} role="img"'
    return f"{head} aria-label={quoted(title)}>{style}{background}<title>{escape(title)}</title>{''.join(body)}</svg>\n"


def quoted(words: str) -> str:
    return f'"{escape(words, quote=True)}"'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", size: float = 12) -> str:
    how = f'class="{kind}" text-anchor="{anchor}" font-size="{size:g}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {how}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def ticks(low: float, high: float, at_least: int = 3) -> list[float]:
    """Return round values between `low` and `high`, spaced by 1, 2 or 5 times a power of ten."""
    span = high - low or 1.0
    power = 10 ** floor(log10(span / at_least))
    step = next((power * k for k in (5, 2, 1) if span / (power * k) >= at_least), power)
    first = floor(low / step) + 1 if low % step else floor(low / step)
    return [round(k * step, 12) for k in range(first, floor(high / step + 1e-9) + 1)]


def bars(rows: Sequence[tuple[str, float, float, float]], title: str, most: float = 100, alone: bool = False) -> str:
    """Return horizontal bars in percent from rows (name, mean, low, high); low and high bound an interval.

    most   the percentage at the right end of the axis
    alone  with colours of its own, as a file
    """
    left = max(168, 16 + 7.2 * max((len(name) for name, *_ in rows), default=0))  # as wide as the longest name
    right, step, top = left + 392, 34, 8
    at = lambda value: left + value / most * (right - left)  # noqa: E731
    height = top + step * len(rows) + 26
    marks = [most * k / 4 for k in range(5)]
    body = [line(at(v), top, at(v), height - 24, "grid") for v in marks]
    body += [text(at(v), height - 8, f"{v:g}", anchor="middle") for v in marks]
    for k, (name, mean, low, high) in enumerate(rows):
        y = top + k * step
        kind = "bar second" if name.startswith(("RA", "AA")) else "bar"
        tooltip = f"<title>{escape(f'{name}: {mean:.2f} %, 95 %: {low:.1f} to {high:.1f}')}</title>"
        body.append(
            f'<rect class="{kind}" x="{left}" y="{y + 5}" width="{at(mean) - left:.1f}" height="20">{tooltip}</rect>'
        )
        body += [line(at(low), y + 15, at(high), y + 15, "whisker")]
        body += [line(at(end), y + 10, at(end), y + 20, "whisker") for end in (low, high)]
        body += [
            text(left - 10, y + 19, name, "ink", "end", 13),
            text(right + 62, y + 19, f"{mean:.1f} %", "strong", "end", 13),
        ]
    return document(body, right + 70, height, title, alone)


def panels(
    found: Mapping[str, Mapping[str, Points]], x_title: str, title: str, columns: int = 3, alone: bool = False
) -> str:
    """Return small line charts side by side with a common x axis.

    found  for each chart's title its series by name
    """
    wide, high, gap = 268, 168, 30
    xs = [x for series in found.values() for points in series.values() for x, _ in points]
    x_low, x_high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    body, columns = [], min(columns, max(1, len(found)))
    for k, (name, series) in enumerate(found.items()):
        left, top = 18 + k % columns * (wide + gap), 14 + k // columns * (high + 58)
        body += panel(name, series, (left + 34, top + 20, left + wide, top + high), (x_low, x_high), x_title)
    rows = -(-len(found) // columns)
    return document(body, columns * (wide + gap) + 12, rows * (high + 58) + 18, title, alone)


def panel(
    name: str,
    series: Mapping[str, Points],
    box: tuple[float, float, float, float],
    xs: tuple[float, float],
    x_title: str,
) -> list[str]:
    left, top, right, bottom = box
    ys = [y for points in series.values() for _, y in points if isfinite(y)]
    low, high = (min(ys), max(ys)) if ys else (0.0, 1.0)
    room = 0.06 * (high - low) or abs(high) * 0.05 or 0.5
    low, high = low - room, high + room
    x_at = lambda v: left + (v - xs[0]) / (xs[1] - xs[0] or 1) * (right - left)  # noqa: E731
    y_at = lambda v: bottom - (v - low) / (high - low) * (bottom - top)  # noqa: E731
    body = [text(left - 34, top - 9, name, "strong", size=13)]
    for tick in ticks(low, high):
        body += [
            line(left, y_at(tick), right, y_at(tick), "grid"),
            text(left - 6, y_at(tick) + 4, f"{tick:g}", "", "end", 11),
        ]
    body += [text(x_at(tick), bottom + 16, f"{tick:g}", "", "middle", 11) for tick in ticks(*xs)]
    body += [
        line(left, bottom, right, bottom, "axis"),
        text((left + right) / 2, bottom + 31, x_title, "", "middle", 11),
    ]
    for k, (label, points) in enumerate(series.items()):
        path = "".join(
            f"{'L' if i else 'M'}{x_at(x):.1f} {y_at(y):.1f}" for i, (x, y) in enumerate(points) if isfinite(y)
        )
        colour = COLOURS[k % len(COLOURS)]
        body.append(f'<path d="{path}" stroke="{colour}"><title>{escape(label)}</title></path>')
        if len(points) <= 12:
            body += [
                f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>'
                for x, y in points
                if isfinite(y)
            ]
    return body


def heat(rows: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Return a heat map of percentages by row and column, with the number in each cell."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    left, wide, high = 150, 64, 25
    body = [text(left + (k + 0.5) * wide, 16, column, "strong", "middle") for k, column in enumerate(columns)]
    for i, (name, row) in enumerate(rows.items()):
        y = 24 + i * high
        body.append(text(left - 10, y + 16, name, "ink", "end", 13))
        for k, column in enumerate(columns):
            if column not in row:
                continue
            value = row[column]
            fill = f"color-mix(in oklab, var(--accent) {round(4 + 0.5 * value)}%, var(--card))"
            body.append(
                f'<rect x="{left + k * wide}" y="{y}" width="{wide - 2}" height="{high - 2}" style="fill:{fill}"/>'
            )
            body.append(text(left + (k + 0.5) * wide - 1, y + 16, f"{value:.1f}", "ink", "middle"))
    return document(body, left + wide * len(columns) + 10, 30 + high * len(rows), title)
