"""Results are kept for each processor, and are a table with processor and precision."""

import json
import sys

from bench.__main__ import main

from bench import records


def result(processor: str, ratio: float, **more) -> dict:
    world = {"precision": "float32", "device": "cpu"}
    return {
        "name": "x", "ratio": ratio, "spread": [1.0, 2.0], "n": 3, "world": world, "processor": processor, **more
    }  # fmt: skip


def test_a_result_replaces_that_of_the_same_processor(tmp_path):
    for each in (result("A", 1.5), result("B", 2.5), result("A", 3.5)):
        records.keep(each, tmp_path)
    kept = records.read("x", tmp_path)
    assert [(one["processor"], one["ratio"]) for one in kept] == [("B", 2.5), ("A", 3.5)]


def test_the_table_has_processor_and_precision(tmp_path):
    both = result("A", 5.2, side="bf16", float32={"ratio": 1.6, "n": 3}, load=[1.0, 2.5], date="2026-01-01")
    (tmp_path / "x.json").write_text(json.dumps(both))  # a single result, as files had before
    lines = records.report(tmp_path).splitlines()
    assert lines[2:] == [
        "| `x` | bf16 | 5.2 [1.0, 2.0] | 3 | A | 1.0 to 2.5 | 2026-01-01 |",
        "| `x` | float32 | 1.6 | 3 | A | 1.0 to 2.5 | 2026-01-01 |",
    ]


def test_the_report_is_of_what_is_kept(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "report"])
    main()
    shown = capsys.readouterr().out
    for file in records.RESULTS.glob("*.json"):
        for one in records.read(file.stem):
            assert (f"| `{file.stem}` |" in shown) == ("ratio" in one)
            assert one["processor"] in shown


def test_this_processor_has_a_name():
    found = records.about(None)
    assert len(found["processor"]) > 3
    assert found["load"][0] is None
