"""Tables for other programs hold the numbers of the tables for people."""

import csv
import io
import json
from pathlib import Path

import pytest

from unshaken import cli
from unshaken.report.records import cell_records

RESULTS = [str(Path(__file__).parents[2] / f"results/digits/acl-slf-seed{seed}.json") for seed in (1, 2, 3)]


def test_report_as_json_and_csv(capsys):
    contents = [json.loads(Path(file).read_text()) for file in RESULTS]
    assert cli.run(["report", *RESULTS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["ra"]["correct"] for each in found] == [each["robust"]["correct"] for each in contents]
    assert [each["ra"]["percent"] for each in found] == [each["robust"]["percent"] for each in contents]
    assert found[0]["seeds"] == contents[0]["seeds"]
    assert cli.run(["report", *RESULTS, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["ra.percent"]) for row in rows] == [each["ra"]["percent"] for each in found]
    assert {row["method"] for row in rows} == {"acl"}


def test_means_are_of_the_runs(capsys):
    assert cli.run(["report", *RESULTS, "--means", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    values = row["ra"]["values"]
    assert row["ra"]["mean"] == pytest.approx(sum(values) / 3)
    assert row["ra"]["std"] == pytest.approx((sum((v - sum(values) / 3) ** 2 for v in values) / 2) ** 0.5)
    assert row["seeds"] == ["1/1/1", "2/2/1", "3/3/1"]


def test_compare_as_json_has_the_p_value(capsys):
    assert cli.run(["compare", *RESULTS[:2], "--json"]) == 0
    (standard, robust) = json.loads(capsys.readouterr().out)
    assert (standard["a"], standard["b"], standard["p"]) == (437, 435, 0.5)
    assert robust["score"] == "robust accuracy (PGD)"


def test_json_and_csv_together_are_refused(capsys):
    assert cli.run(["report", *RESULTS, "--json", "--csv"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_numeric_cells_become_numbers():
    assert cell_records(("a", "b", "c", "d"), [("–", "12", "1.50", "x 3")]) == [
        {"a": None, "b": 12, "c": 1.5, "d": "x 3"}
    ]
