"""Charts are well-formed, say their numbers, and keep what files say as text."""

import json
from xml.etree import ElementTree

import pytest

from unshaken.charts.curve import curve_svg, curves, read_log, write_curve
from unshaken.charts.svg import bars, heat, panels, ticks

LINES = [
    {"step": k, "epoch": k / 10, "loss": 5.0 / (k + 1), "adv": 1.0, "lr": 0.1, "mode": "repeatable"} for k in range(9)
]


def test_all_are_well_formed_and_titled():
    evil = '<script>&"'
    for chart in (
        bars([(evil, 50.0, 45.0, 55.0)], evil),
        panels({evil: {evil: [(0, 1), (1, 2)]}}, evil, evil),
        heat({evil: {"SA": 10.0}}, evil),
        curve_svg(LINES, evil),
        panels({}, "x", "empty"),
        panels({"flat": {"a": [(1, 2), (1, 2)]}}, "x", "flat"),
    ):
        root = ElementTree.fromstring(chart)
        assert root.get("aria-label")
        assert "<script>" not in chart


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3.2, 9.7), (-1e-3, 1e-3), (1e4, 5e6), (5, 5)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert all(low - 1e-9 <= tick <= (high if high > low else high + 1) + 1e-9 for tick in found)
    assert high == low or 2 <= len(found) <= 12


def test_the_loss_comes_first_and_the_speed_last():
    found = curves([line | {"images_per_s": 9.0, "gauge": 0.5} for line in LINES])
    assert list(found) == ["loss", "adv", "gauge", "learning rate", "images per second"]
    assert found["loss"]["loss"][4] == (0.4, 1.0)


def test_a_run_s_log_becomes_a_file(tmp_path):
    assert write_curve(tmp_path) is None
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 9, "ep')
    assert len(read_log(tmp_path / "log.jsonl")) == 9
    assert write_curve(tmp_path) == tmp_path / "curve.svg"
    ElementTree.parse(tmp_path / "curve.svg")


@pytest.mark.parametrize("damaged", [b"\xff\n", b"3\n", b"[[\n", b"[" * 100_000 + b"\n"])
def test_a_damaged_line_ends_a_log(damaged, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"epoch": 1}\n' + damaged + b'{"epoch": 2}\n')
    assert read_log(tmp_path / "log.jsonl") == [{"epoch": 1}]


def test_every_run_that_ends_leaves_its_curve(tmp_path):
    import torch

    from unshaken.attacks.ball import Linf
    from unshaken.train.run_dir import Run

    net = torch.nn.Linear(2, 2)
    with Run.open(tmp_path, "toy", Linf(0.1), {}) as run:
        run.restore(net, torch.optim.SGD(net.parameters()), torch.device("cpu"))
        for line in LINES:
            run.log(line)
        run.finish(net, {})
    ElementTree.parse(run.path / "curve.svg")
    assert (run.path / "run.json").exists()
