"""Rows, tasks, ranks, and what tells rows of one name apart."""

import copy
import json
from dataclasses import replace

import pytest
from made import resealed, result, some, write

from unshaken.board.build import build
from unshaken.board.collect import receipts
from unshaken.board.reported import MISSING, published, reported_rows
from unshaken.board.rows import rows_of
from unshaken.board.tasks import budget, epsilon, task_of


@pytest.fixture
def found(tmp_path):
    return receipts([write(tmp_path / "results", some())])


def test_seeds_of_one_recipe_are_one_row(found):
    rows = rows_of(found)
    assert sorted((row.method, row.detail, *map(len, row.modes.values())) for row in rows) == [
        ("acl", "epochs 100", 3),
        ("acl", "epochs 30", 3, 3),
        ("dynacl", "", 3, 3),
        ("simclr", "", 3, 3),
    ]
    assert {row.task.key for row in rows} == {"digits-digits-linf-0.1-resnet-small"}


def test_ranks_are_by_tests_and_by_score(found):
    by_name = {(row.method, row.detail): row.ranks for row in rows_of(found)}
    assert by_name["acl", "epochs 100"]["slf"]["RA"] == 1
    assert by_name["simclr", ""]["slf"]["RA"] == 4
    assert by_name["acl", "epochs 30"]["slf"]["RA"] == by_name["dynacl", ""]["slf"]["RA"] == 2
    assert by_name["simclr", ""]["slf"]["SA"] == 1


def test_equal_weights_in_two_results_are_refused(tmp_path):
    one = result()
    other = copy.deepcopy(one)
    other["seeds"]["pretrain"] = other["pretrain"]["recipe"]["seed"] = 4
    folder = write(tmp_path / "results", [one, resealed(other)])
    with pytest.raises(ValueError, match=r"acl-slf-1.json: its weights \(.{8}\) are those of .*acl-slf-0.json"):
        receipts([folder])


def test_the_same_file_twice_counts_once(tmp_path):
    write(tmp_path / "a", [result()])
    write(tmp_path / "b", [result()])
    assert len(receipts([tmp_path / "a", tmp_path / "b", tmp_path])) == 1


def test_other_epsilons_are_other_tasks_and_one_curve(tmp_path):
    found = [result(eps=0.1), result("dynacl", accuracy=0.75)]
    for eps in (0.05, 0.2):
        other = result(eps=eps)
        other["weights"] = found[0]["weights"]
        found.append(resealed(other))
    board = build(receipts([write(tmp_path / "r", found)]), published())
    tasks = {task["threat"]: task for task in board["tasks"] if task["measured"]}
    assert set(tasks) == {"l∞ 0.1", "l∞ 0.05", "l∞ 0.2"}
    curve = tasks["l∞ 0.1"]["insight"]["slf"]["epsilon"][0]
    assert [eps for eps, _ in curve["points"]] == [0.0, 0.05, 0.1, 0.2]
    assert curve["points"][0][1] == found[0]["standard"]["correct"] / 2


def test_epsilons_are_written_as_fractions_of_255_where_they_are():
    assert [epsilon(eps) for eps in (8 / 255, 4 / 255, 0.1, 0.3, 0.5)] == ["8/255", "4/255", "0.1", "0.3", "0.5"]
    assert budget("l∞ 8/255") == pytest.approx(8 / 255)
    changed = result()
    changed["pretrain"]["recipe"]["data"]["name"] = "cifar10"
    assert replace(task_of(changed), threat="").title == "CIFAR-10 → digits"


def test_placeholders_have_no_numbers():
    numbers = published()["numbers"]
    missing = [n for n in numbers if n.get("status") in MISSING]
    assert len(missing) == 39
    assert not any(metric in n for n in missing for metric in ("AA", "RA", "CA", "SA"))


def test_disagreements_and_corrections_are_marked():
    rows = reported_rows(published())
    mine = [r for r in rows if r["method"] == "DeACL" and r["task"].judged == "CIFAR-10" and not r["detail"]]
    by_source = {row["source"]: row for row in mine}
    assert by_source["deacl"]["cells"]["slf"]["AA"] == {
        "mean": 46.14, "sd": 0.05, "seeds": 5, "others": [["robustssl", 43.27]],
    }  # fmt: skip
    assert by_source["robustssl"]["corrections"]
    assert not by_source["deacl"]["corrections"]
    assert all("rank" not in json.dumps(row["cells"]) for row in rows)


def test_every_reported_number_has_a_source_in_words():
    found = published()
    used = {number["source"] for number in found["numbers"]}
    assert used == set(found["sources"])
    assert all({"title", "where", "year", "protocol"} <= set(source) for source in found["sources"].values())
    assert all(each["date"] and each["why"] and each["source"] for each in found["corrections"])
