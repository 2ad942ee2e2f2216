"""The drawing: points are where their numbers are on the axes' own ticks, and labels lie on nothing else."""

import re
from itertools import combinations
from math import dist
from xml.etree import ElementTree

import pytest

from unshaken.report.scatter import Axis, Dot, around, figure, legend, overlap

NS = "{http://www.w3.org/2000/svg}"
SERIES = {
    "whole": [Dot(1.0, 80.0, label="1")],
    "some & <few>": [Dot(3.0, 79.0, 0.2, 1.0, "0.2"), Dot(5.0, 77.5, 0.1, 0.5, "0.1")],
}


def drawn(panels: dict) -> ElementTree.Element:
    return ElementTree.fromstring(figure("a & b", "below", "in <words>", "speed-up", panels))


def groups(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The panels."""
    return root.findall(f"{NS}g")


def marks(group: ElementTree.Element) -> list[tuple[str, float, float]]:
    """What each point's tooltip says, and where the point is."""
    found = []
    for path in group.findall(f"{NS}path"):
        x, y = re.fullmatch(r"translate\(([\d.-]+) ([\d.-]+)\)", path.get("transform")).groups()
        found.append((path.find(f"{NS}title").text, float(x), float(y)))
    return found


def ticks(group: ElementTree.Element, anchor: str) -> dict[float, float]:
    """Value to pixel, as a reader takes it: from the numbers under (middle) or beside (end) the frame."""
    place = {"middle": "x", "end": "y"}[anchor]
    nudge = 4 if anchor == "end" else 0  # from a number's baseline to its middle
    texts = [t for t in group.findall(f"{NS}text") if t.get("text-anchor") == anchor and "faint" in t.get("class")]
    return {float(t.text): float(t.get(place)) - nudge for t in texts}


def read(at: float, scale: dict[float, float]) -> float:
    """The number at a pixel, from two ticks of the axis."""
    (a, low), (b, high) = min(scale.items()), max(scale.items())
    return a + (at - low) / (high - low) * (b - a)


def test_points_are_where_their_numbers_are():
    other = {name: [Dot(d.x, d.y - 40, label=d.label) for d in dots] for name, dots in SERIES.items()}
    found = groups(drawn({"SA": SERIES, "RA": other}))
    assert len(found) == 2
    assert marks(found[0])[0][2] < marks(found[0])[1][2] < marks(found[0])[2][2]  # what is more is higher
    for group, series in zip(found, (SERIES, other), strict=True):
        across, up = ticks(group, "middle"), ticks(group, "end")
        assert len(across) >= 3
        assert len(up) >= 3
        dots = [dot for each in series.values() for dot in each]
        for dot, (_, x, y) in zip(dots, marks(group), strict=True):
            assert read(x, across) == pytest.approx(dot.x, abs=0.01)
            assert read(y, up) == pytest.approx(dot.y, abs=0.02)


def test_error_bars_end_one_error_away():
    (group,) = groups(drawn({"SA": SERIES}))
    across, up = ticks(group, "middle"), ticks(group, "end")
    lines = [line for line in group.findall(f"{NS}line") if line.get("stroke-width") == "1.3"]
    ends = [{k: float(line.get(k)) for k in ("x1", "y1", "x2", "y2")} for line in lines]
    assert len(ends) == 2 * 6  # two points, a bar and two caps each way
    flat = [e for e in ends if e["y1"] == e["y2"]]
    spans = [(read(e["x1"], across), read(e["x2"], across)) for e in flat]
    assert any(a == pytest.approx(2.8, abs=0.01) and b == pytest.approx(3.2, abs=0.01) for a, b in spans)
    tall = [(read(e["y1"], up), read(e["y2"], up)) for e in ends if e["x1"] == e["x2"]]
    assert any(a == pytest.approx(80.0, abs=0.02) and b == pytest.approx(78.0, abs=0.02) for a, b in tall)


def test_the_file_says_what_it_shows_to_who_cannot_see_it():
    root = drawn({"SA": SERIES})
    ids = {element.get("id"): element for element in root}
    assert root.get("role") == "img"
    assert [ids[name].text for name in root.get("aria-labelledby").split()] == ["a & b", "in <words>"]
    assert any(title.startswith("some & <few> 0.2") for title, _, _ in marks(groups(root)[0]))
    assert "prefers-color-scheme:dark" in root.find(f"{NS}style").text


def boxes(group: ElementTree.Element) -> dict[str, list[tuple]]:
    """What the labels, at their real size or less, and the points take."""
    texts = [t for t in group.findall(f"{NS}text") if "halo" in t.get("class")]
    labels = []
    for t in texts:
        x, y, half = float(t.get("x")), float(t.get("y")), 3.0 * len(t.text)
        labels.append((x - half, y - 8, x + half, y))
    bars = [line for line in group.findall(f"{NS}line") if line.get("stroke-width") == "1.3"]
    ends = [tuple(float(line.get(k)) for k in ("x1", "y1", "x2", "y2")) for line in bars]
    thick = [(a - 0.5, b - 0.5, c + 0.5, d + 0.5) for a, b, c, d in ends]
    return {"labels": labels, "bars": thick, "points": [(x - 5, y - 5, x + 5, y + 5) for _, x, y in marks(group)]}


@pytest.mark.parametrize("apart", [0.0, 0.05, 0.3])
def test_labels_keep_clear_of_each_other_and_of_points(apart):
    near = [Dot(3 + apart * k, 70 + apart * (k % 2), 0.05, 0.3, f"0.{k}{k}{k}") for k in range(6)]
    (group,) = groups(drawn({"SA": {"whole": [Dot(1, 75)], "gaussian": near, "edge": [Dot(6, 70, label="0.05" * 4)]}}))
    found = boxes(group)
    assert len(found["labels"]) == 7
    assert all(not overlap(a, b) for a, b in combinations(found["labels"], 2))
    assert all(not overlap(a, b) for a in found["labels"] for b in found["points"])
    assert all(not overlap(a, b) for a in found["labels"] for b in found["bars"])
    frame = group.find(f"{NS}rect")
    left, right = float(frame.get("x")), float(frame.get("x")) + float(frame.get("width"))
    assert all(left <= a and b <= right for a, _, b, _ in found["labels"])


def test_a_label_is_nearest_to_its_own_point():
    """Here the nearest place that is free is not."""
    numbers = [(3.25, 8, 0, 1), (2.75, 5, 0.5, 1), (1, 8, 1, 1), (2.75, 9, 0, 0), (3.5, 2, 1, 0), (1.25, 8, 0.5, 0)]
    dots = [Dot(*each, label=f"0.45{k}") for k, each in enumerate(numbers)]
    (group,) = groups(drawn({"SA": {"all": dots}}))
    points = [(x, y) for _, x, y in marks(group)]
    texts = [t for t in group.findall(f"{NS}text") if "halo" in t.get("class")]
    for text, own in zip(texts, points, strict=True):
        middle = (float(text.get("x")), float(text.get("y")) - 3.5)
        assert min(points, key=lambda point, middle=middle: dist(middle, point)) == own


def test_a_label_is_beside_its_point():
    assert around(100, 50, 30, 9, (1, 0)) == (109, 43.5, 139, 56.5)
    assert around(100, 50, 30, 9, (0, -1)) == (85, 28, 115, 41)


@pytest.mark.parametrize(("low", "high"), [(1.0, 6.9), (78.2, 79.9), (0.0, 100.0), (3.0, 3.0), (0.99, 1.013)])
def test_ticks_are_round_and_enough(low, high):
    axis = Axis.over([low, high], 0, 100)
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 11
    assert all(axis.low <= tick <= axis.high for tick in ticks)
    step = round(ticks[1] - ticks[0], 9)
    assert f"{step:e}"[0] in "125"
    assert all(abs(tick / step - round(tick / step)) < 1e-6 for tick in ticks)


def test_a_long_legend_goes_on_in_another_row():
    one, two = legend(["a", "b"])[1], legend(["a long name of a selector " * 2] * 4)[1]
    assert two >= one + 21
