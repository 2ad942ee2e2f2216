"""A scatter plot as SVG: panels with error bars, a legend, and labels that avoid each other."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import dist, floor, log10

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; y grows downwards."""


@dataclass(frozen=True)
class Dot:
    """A point, the half lengths of its error bars, and a short label."""

    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: list[float], start: float, end: float) -> Axis:
        """Return an axis that holds all values, with a margin."""
        low, high = min(values), max(values)
        room = 0.1 * (high - low) or 0.5
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return 3 to 10 round values; their distance is 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        power = 10 ** floor(log10(span / 4))
        step = next(power * k for k in (5, 2, 1) if span / (power * k) >= 4)
        first = floor(self.low / step) + 1
        return [round(k * step, 10) for k in range(first, floor(self.high / step) + 1)]


WIDTH, PLOT, TOP, LEFT, GAP = 900, 270, 92, 52, 62
"""Pixels: the figure's width, the plots' height, and the space above, left of and between them."""
LETTER, LINE = 6.6, 13.0
"""Pixels for a letter and a line of a label, with a margin, since the viewer's font is unknown."""
COLOURS = ("#8a8f98", "#e08214", "#a678d8", "#2f8fd8", "#1aa179", "#cc6fa8", "#c0504d")
"""Colours by series: mid-tones, which are visible on white and on black."""
SHAPES = (
    "M0-6.5 6.5 0 0 6.5-6.5 0Z",
    "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "M-4.7-4.7H4.7V4.7H-4.7Z",
    "M0-6 5.6 4.5H-5.6Z",
    "M0 6 5.6-4.5H-5.6Z",
    "M-6-2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z",
)
"""Shapes by series, around the origin, for readers who cannot tell the colours apart. The third is not filled."""
STYLE = """
.paper{fill:#ffffff} .ink{fill:#24292f} .faint{fill:#59636e} .grid{stroke:#d8dee4} .frame{stroke:#8c959f;fill:none}
.leader{stroke:#8c959f;stroke-width:.8}
.halo{stroke:#ffffff;stroke-width:3;stroke-linejoin:round;paint-order:stroke} .hollow{fill:#ffffff}
@media (prefers-color-scheme:dark){
.paper{fill:#0d1117} .ink{fill:#e6edf3} .faint{fill:#9198a1} .grid{stroke:#2b323a} .frame{stroke:#6e7681}
.halo{stroke:#0d1117} .hollow{fill:#0d1117}}
"""


def figure(title: str, subtitle: str, describe: str, x_title: str, panels: dict[str, dict[str, list[Dot]]]) -> str:
    """Return a figure as SVG.

    describe  the content in words, for screen readers
    panels    by the title of the y axis: the dots of each series, which are joined by lines
    """
    names = list(next(iter(panels.values())))
    keys, bottom = legend(names)
    wide = (WIDTH - LEFT - 16 - GAP * (len(panels) - 1)) / len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" width="{WIDTH}" height="{bottom}" '
        'role="img" aria-labelledby="title describe" font-family="system-ui, Helvetica, Arial, sans-serif">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="describe">{escape(describe)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{bottom}" rx="6"/>',
        text(LEFT, 28, title, "ink", 17, weight=600),
        text(LEFT, 49, subtitle, "faint", 12),
    ]
    for k, (y_title, series) in enumerate(panels.items()):
        left = LEFT + k * (wide + GAP)
        parts += panel((left, TOP, left + wide, TOP + PLOT), x_title, y_title, series)
    return "\n".join([*parts, *keys, "</svg>", ""])


def panel(box: Box, x_title: str, y_title: str, series: dict[str, list[Dot]]) -> list[str]:
    left, top, right, bottom = box
    dots = [dot for each in series.values() for dot in each]
    x = Axis.over([value for d in dots for value in (d.x - d.x_error, d.x + d.x_error)], left, right)
    y = Axis.over([value for d in dots for value in (d.y - d.y_error, d.y + d.y_error)], bottom, top)
    parts = ["<g>", text(left, top - 11, y_title, "ink", 13, weight=600)]
    for tick in x.ticks():
        parts += [line(x(tick), top, x(tick), bottom, 'class="grid"')]
        parts += [text(x(tick), bottom + 17, f"{tick:g}", "faint", 11.5, "middle")]
    for tick in y.ticks():
        parts += [line(left, y(tick), right, y(tick), 'class="grid"')]
        parts += [text(left - 8, y(tick) + 4, f"{tick:g}", "faint", 11.5, "end")]
    parts += [f'<rect class="frame" x="{left:.2f}" y="{top}" width="{right - left:.2f}" height="{bottom - top}"/>']
    parts += [text((left + right) / 2, bottom + 38, x_title, "ink", 12, "middle")]
    for k, (name, each) in enumerate(series.items()):
        parts += draw_series(name, k, [(d, x, y) for d in each])
    return [*parts, *labels(box, dots, x, y), "</g>"]


def draw_series(name: str, k: int, dots: list[tuple[Dot, Axis, Axis]]) -> list[str]:
    """Draw one series: its lines, its error bars, and its dots on top."""
    colour = f'stroke="{COLOURS[k % len(COLOURS)]}"'
    joins, bars, marks = [], [], []
    for (a, x, y), (b, _, _) in pairwise(dots):
        joins.append(line(x(a.x), y(a.y), x(b.x), y(b.y), f'{colour} stroke-opacity="0.45" stroke-width="1.5"'))
    for d, x, y in dots:
        bars += [line(*ends, f'{colour} stroke-width="1.3"') for ends in error_bars(d, x, y)]
        said = f"{name} {d.label}: {d.x:.2f}, {d.y:.2f}"
        marks.append(marker(k, x(d.x), y(d.y), f"<title>{escape(said)}</title>"))
    return [*joins, *bars, *marks]


def error_bars(d: Dot, x: Axis, y: Axis) -> list[Box]:
    """Return the lines of a dot's error bars with their caps; [] without errors."""
    across, up, cap = [], [], 3.5
    if d.x_error:
        a, b, at = x(d.x - d.x_error), x(d.x + d.x_error), y(d.y)
        across = [(a, at, b, at), (a, at - cap, a, at + cap), (b, at - cap, b, at + cap)]
    if d.y_error:
        a, b, at = y(d.y + d.y_error), y(d.y - d.y_error), x(d.x)
        up = [(at, a, at, b), (at - cap, a, at + cap, a), (at - cap, b, at + cap, b)]
    return across + up


def labels(box: Box, dots: list[Dot], x: Axis, y: Axis) -> list[str]:
    """Draw each dot's label close to it, where it covers least and is nearest to its own dot."""
    points = [(x(d.x), y(d.y)) for d in dots]
    taken = [(a - 7, b - 7, a + 7, b + 7) for a, b in points]
    taken += [(a - 1, b - 1, c + 1, d + 1) for dot in dots for a, b, c, d in error_bars(dot, x, y)]
    parts = []
    for d, point in zip(dots, points, strict=True):
        if not d.label:
            continue
        spots = [around(*point, LETTER * len(d.label), away, side) for away in (9, 18, 30, 44) for side in SIDES]
        costs = [
            sum(overlap(spot, other) for other in taken) + 10 * outside(spot, box) + 100 * astray(spot, point, points)
            for spot in spots
        ]
        best = spots[costs.index(min(costs))]
        taken.append(best)
        if reach(best, point) > FAR:  # a label far from its point is joined to it by a line
            near = min(max(point[0], best[0]), best[2]), min(max(point[1], best[1]), best[3])
            parts.append(line(*point, *near, 'class="leader"'))
        parts.append(text((best[0] + best[2]) / 2, best[3] - 3, d.label, "ink halo", 11.5, "middle"))
    return parts


FAR = 14.0
"""Pixels from a point to its label beyond which a line joins them."""


def reach(label: Box, point: tuple[float, float]) -> float:
    """Return the distance of a label's box from a point."""
    across = max(label[0] - point[0], 0.0, point[0] - label[2])
    down = max(label[1] - point[1], 0.0, point[1] - label[3])
    return dist((across, down), (0.0, 0.0))


SIDES = ((1, 0), (0, -1), (0, 1), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1))
"""Right, above, below, left, and the corners."""


def around(x: float, y: float, wide: float, away: float, side: tuple[int, int]) -> Box:
    """Return a label's box at a side of a point."""
    across, down = side
    middle, centre = x + across * (away + wide / 2), y + down * (away + LINE / 2)
    return middle - wide / 2, centre - LINE / 2, middle + wide / 2, centre + LINE / 2


def astray(label: Box, own: tuple[float, float], points: list[tuple[float, float]]) -> bool:
    """Return whether a label is nearer to another point than to its own."""
    middle = ((label[0] + label[2]) / 2, (label[1] + label[3]) / 2)
    return min(dist(middle, point) for point in points) < dist(middle, own)


def overlap(a: Box, b: Box) -> float:
    """Return the area of the intersection of two boxes."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def outside(a: Box, frame: Box) -> float:
    """Return the area of a box that is outside the frame."""
    return (a[2] - a[0]) * (a[3] - a[1]) - overlap(a, frame)


def legend(names: list[str]) -> tuple[list[str], float]:
    """Return the legend's marks and names in rows, and the height at which the figure ends."""
    parts, x, y = [], float(LEFT), TOP + PLOT + 66.0
    for k, name in enumerate(names):
        wide = 18 + LETTER * 1.05 * len(name) + 24
        if x > LEFT and x + wide > WIDTH:
            x, y = float(LEFT), y + 21
        parts += [marker(k, x + 6, y - 4), text(x + 18, y, name, "ink", 12)]
        x += wide
    return parts, y + 18


def marker(k: int, x: float, y: float, inside: str = "") -> str:
    colour, hollow = COLOURS[k % len(COLOURS)], k % len(SHAPES) == 2
    fill = 'class="hollow"' if hollow else f'fill="{colour}"'
    position = f'transform="translate({x:.2f} {y:.2f})"'
    return f'<path {fill} stroke="{colour}" stroke-width="1.8" {position} d="{SHAPES[k % len(SHAPES)]}">{inside}</path>'


def line(x1: float, y1: float, x2: float, y2: float, how: str) -> str:
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" {how}/>'


def text(x: float, y: float, words: str, kind: str, size: float, anchor: str = "start", weight: int = 400) -> str:
    how = f'class="{kind}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.2f}" y="{y:.2f}" {how}>{escape(words)}</text>'
