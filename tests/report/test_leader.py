"""A label that had to leave its point has a line to it; one beside its point has none."""

from unshaken.report.scatter import FAR, Dot, figure, reach


def drawn(dots):
    return figure("t", "s", "d", "x", {"y": {"a": dots}})


def test_a_label_far_from_its_point_has_a_line():
    crowd = [Dot(x / 40, y / 40, label=f"a long label {x}{y}") for x in range(4) for y in range(4)]
    far = [Dot(-3, -3), Dot(4, 4)]
    assert 'class="leader"' in drawn([*crowd, *far])


def test_a_label_beside_its_point_has_no_line():
    assert 'class="leader"' not in drawn([Dot(0, 0, label="one"), Dot(1, 1, label="two")])


def test_reach_is_the_distance_to_the_box():
    assert reach((10, 10, 20, 20), (15, 15)) == 0
    assert reach((10, 10, 20, 20), (7, 6)) == 5
    assert FAR > 9
