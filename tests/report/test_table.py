"""Tables from results: counts beside percentages, seeds taken together only where all else is equal."""

import copy
from pathlib import Path
from statistics import stdev

import numpy
import pytest

from unshaken import cli
from unshaken.base.json_files import write_json
from unshaken.base.packed_bits import pack_bits
from unshaken.report.cells import attack
from unshaken.report.grouping import once_each, results_in
from unshaken.report.table import board, markdown, means, rows, summary, table_of


def score(correct: int) -> dict:
    """Of 40 images."""
    bits = pack_bits(numpy.arange(40) < correct)
    return {"correct": correct, "n": 40, "percent": 2.5 * correct, "interval95": [60.1, 85.9], "bits": bits}


def result(seed: int = 1, robust: int = 30, **changes) -> dict:
    """One result of 40 images, with what the tables read of it."""
    return {
        "method": "acl",
        "mode": "slf",
        "data": {"name": "digits", "split": "test", "n": 40, "digest": "d"},
        "standard": score(38),
        "robust": score(robust),
        "seeds": {"pretrain": seed, "finetune": seed, "evaluation": 1},
        "seconds": {"pretrain": 9.0, "finetune": 2.0, "evaluation": 1.0},
        "evaluation": {"attack": {"steps": 20, "ball": {"type": "Linf", "eps": 8 / 255}}, "seed": 1},
        "weights": str(seed),
        "world": {},
        "pretrain": {"recipe": {"seed": seed, "epochs": 3}},
        "finetune": {"recipe": {"seed": seed}, "data": {"encoder": str(seed)}},
    } | changes


def test_a_row_shows_counts_and_seeds():
    (row,) = rows([result()])
    assert row == (
        "acl",
        "SLF",
        "digits",
        "40",
        "95.0 % (38)",
        "75.0 % (30)",
        "60.1 to 85.9",
        "PGD-20 l∞ 8/255",
        "1/1/1",
        "12",
    )


def full(seed: int = 1, fallen: int = 0) -> dict:
    """With AutoAttack and corruptions."""
    autoattack = score(28 - fallen)
    return result(seed, autoattack=autoattack, corruption_accuracy={"CS-1": 90.0, "mean": 80.25 + fallen})


def test_columns_of_autoattack_and_corruptions_are_there_where_results_have_them():
    lines = markdown([full(), result()]).splitlines()
    assert lines[0].startswith("| method | mode | data | n | SA | RA | RA 95 % | AA | CA | attack | seeds")
    assert "| 70.0 % (28) | 80.2 % |" in lines[2]
    assert "| – | – |" in lines[3]
    assert "AutoAttack" in lines[-1]
    assert "AutoAttack" not in markdown([result()])
    (row,) = means([full(1), full(2, fallen=4)])
    assert row[6:8] == (f"65.0 ± {stdev([70, 60]):.1f} % (28, 24)", f"82.2 ± {stdev([80.25, 84.25]):.1f} %")
    assert means([full(1), result(2)])[0][6:8] == ("–", "–")  # a mean of fewer would pass for one of all
    assert markdown([full()], "board").startswith("| method | SLF SA | SLF RA | SLF AA | SLF CA | n |")
    assert board([full()])[0][3:5] == ("70.0 % (28)", "80.2 %")
    assert summary([full()])[0] | {"autoattack_correct": 28, "corruption_percent": 80.25} == summary([full()])[0]


def test_a_partial_result_shows_n_of_all():
    part = result()
    part["robust"] |= {"n": 16, "of": 40}
    assert rows([part])[0][3] == "16 of 40"
    other = full()
    other["autoattack"] |= {"n": 32, "of": 40}
    assert (rows([other])[0][3], rows([other])[0][7]) == ("40", "70.0 % (28 of 32)")


def test_results_of_earlier_versions_are_read():
    """Those in this repository, made when an evaluation was clean images and PGD alone."""
    kept = sorted((Path(__file__).parents[2] / "results").rglob("*.json"))[:3]
    assert len(rows(results_in(kept))) == 3


def test_an_unknown_time_is_a_dash_or_null():
    moved = result(seconds={"pretrain": None, "finetune": 2.0, "evaluation": 1.0})
    assert rows([moved])[0][-1] == "–"
    assert summary([moved])[0]["seconds"] is None


def test_a_file_that_is_no_result_is_named(tmp_path):
    write_json(tmp_path / "result.json", {})
    with pytest.raises(ValueError, match="is not a result: it has no 'method'"):
        results_in([tmp_path])


def test_a_result_whose_counts_are_not_those_of_its_verdicts_is_refused(tmp_path):
    """Even where the checksum was made to fit."""
    wrong = {"correct": 39}, {"n": 39}, {"percent": 100.0}, {"bits": "////"}, {"bits": "not bits"}
    for change in wrong:
        write_json(tmp_path / "result.json", result() | {"robust": score(30) | change})
        with pytest.raises(ValueError, match="was altered: the numbers of robust are not those of its verdicts"):
            results_in([tmp_path])
    write_json(tmp_path / "result.json", result(corruptions={"fog": {"3": score(30) | {"correct": 40}}}))
    with pytest.raises(ValueError, match="was altered: the numbers of fog/3"):
        results_in([tmp_path])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": 3}, "'method' is 3, but must be text"),
        ({"seeds": {}}, "it has no 'seeds.pretrain'"),
        ({"seconds": {"pretrain": "long"}}, "'seconds.pretrain' is 'long', but must be a finite number"),
        ({"standard": [1]}, "'standard' is a list of 1 items, but must be an object"),
        (
            {"evaluation": {"attack": {"steps": 20, "ball": {"type": "L7", "eps": 1}}}},
            "'evaluation.attack.ball.type' is 'L7'",
        ),
        ({"corruptions": {"fog": []}}, "'corruptions.fog' is a list"),
    ],
)
def test_a_field_of_a_result_that_is_of_another_kind_is_named(change, said, tmp_path, capsys):
    write_json(tmp_path / "result.json", result() | change)
    assert cli.run(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/result.json is not a result: {said}" in err
    assert err.count("\n") == 1


def test_means_over_seeds():
    (row,) = means([result(1, 30), result(2, 26), result(3, 31)])
    assert row[5] == f"72.5 ± {stdev([75, 65, 77.5]):.1f} % (30, 26, 31)"
    assert row[7] == "1/1/1, 2/2/1, 3/3/1"


def test_other_recipes_are_not_taken_together():
    other = copy.deepcopy(result(2))
    other["pretrain"]["recipe"]["epochs"] = 4
    assert len(means([result(1), other, result(3)])) == 2


def test_the_board_table_has_one_row_per_method():
    other = result(1, 20, mode="aff")
    (row,) = board([result(1, 30), result(2, 26), other])
    assert row == (
        "acl",
        "95.0 ± 0.0 % (38, 38)",
        f"70.0 ± {stdev([75, 65]):.1f} % (30, 26)",
        "95.0 % (38)",
        "50.0 % (20)",
        "40",
        "1, 2",
        "9",
    )
    assert len(board([result(1), result(1, method="simclr")])) == 2
    assert "50.0 % (20)" in markdown([other], "board")
    assert markdown([other, result(mode="autolora")], "board").startswith("| method | AFF SA | AFF RA | AUTOLORA SA |")


def test_other_fine_tuning_recipes_have_separate_rows():
    other = result(2, 4, finetune={"recipe": {"seed": 2, "epochs": 1}})
    assert [row[2] for row in board([result(1, 30), other])] == ["75.0 % (30)", "10.0 % (4)"]


def test_teachers_that_differ_only_in_their_seed_share_a_row():
    def student(seed: int, weights: str, teacher: str) -> dict:
        data = {"teacher": {"name": teacher, "weights": weights}}
        return result(seed, pretrain={"recipe": {"seed": seed}, "data": data})

    assert len(means([student(1, "a", "simclr"), student(2, "b", "simclr")])) == 1
    assert len(means([student(1, "a", "simclr"), student(2, "b", "acl")])) == 2


@pytest.mark.parametrize(
    ("eps", "norm", "words"),
    [(8 / 255, "Linf", "PGD-20 l∞ 8/255"), (0.1, "Linf", "PGD-20 l∞ 0.1"), (0.5, "L2", "PGD-20 l2 0.5")],
)
def test_the_attack_in_words(eps, norm, words):
    assert attack({"steps": 20, "ball": {"type": norm, "eps": eps}}) == words


def test_the_summary_has_numbers_instead_of_text():
    assert summary([result()]) == [
        {"method": "acl", "mode": "slf", "n_test": 40, "standard_correct": 38, "robust_correct": 30, "seconds": 12.0}
    ]


def test_markdown_is_a_table_with_a_legend():
    lines = markdown([result()]).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert lines[4].startswith("SA: accuracy on clean test images")


def test_results_are_found_by_folder_and_by_file(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/b/result.json", "kept.json"):
        write_json(tmp_path / name, result())
    assert len(results_in([tmp_path])) == 1
    assert len(results_in([tmp_path, tmp_path / "kept.json"])) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no result.json"):
        results_in([tmp_path / "empty"])


def test_files_that_are_no_results_are_skipped_in_a_folder(tmp_path, capsys):
    """results/digits, whose files are called by method, mode and seed; what is no result there is passed over."""
    for name in ("acl-slf-seed1", "acl-slf-seed2"):
        write_json(tmp_path / f"{name}.json", result())
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[1]")
    assert len(results_in([tmp_path])) == 2
    assert capsys.readouterr().err == ""
    (tmp_path / "broken.json").write_text("{")
    assert len(results_in([tmp_path])) == 2
    assert "broken.json" in capsys.readouterr().err
    digits = Path(__file__).parents[2] / "results" / "digits"
    assert len(results_in([digits])) == len(list(digits.glob("*.json"))) > 20
    file = tmp_path / "acl-slf-seed2.json"
    file.write_text(file.read_text().replace('"correct": 30', '"correct": 40'))
    with pytest.raises(ValueError, match="was damaged or altered"):
        results_in([tmp_path])


def test_rows_that_look_alike_get_a_column_of_differences():
    """A thousand labels and all of them; coresets of several fractions; an evaluation of another stride."""
    few = result(finetune={"recipe": {"seed": 1, "data": {"name": "photos", "limit": 1000}}})
    all_ = result(finetune={"recipe": {"seed": 1, "data": {"name": "photos", "limit": None}}})
    columns, body, legend = table_of([few, all_])
    assert columns[-1] == "differs in"
    assert [row[-1] for row in body] == ["finetune data.limit 1000", "finetune data.limit null"]
    assert "differs in:" in legend
    parts = [result(pretrain={"recipe": {"seed": 1, "coreset": {"type": "RCS", "fraction": f}}}) for f in (0.1, 0.2)]
    whole = result(pretrain={"recipe": {"seed": 1, "coreset": None}})
    cells = [row[-1] for row in table_of([*parts, whole])[1]]
    assert cells == ["coreset.type RCS, coreset.fraction 0.1", "coreset.type RCS, coreset.fraction 0.2", "coreset null"]
    assert [row[-1] for row in table_of([*parts, whole], "means")[1]] == cells
    assert [row[-1] for row in table_of([*parts, whole], "board")[1]] == cells
    other = result()
    other["evaluation"]["attack"]["rel_step_size"] = 0.1
    assert table_of([result(), other])[1][1][-1] == "attack.rel_step_size 0.1"
    assert table_of([result(world={"torch": "2"}), result(world={"torch": "3"})])[1][0][-1] == "torch 2"
    same = table_of([result(weights="a"), result(weights="b")])[1]
    assert [row[-1] for row in same] == ["weights a", "weights b"]


def test_rows_that_differ_need_no_extra_column():
    for results in ([result()], [result(1), result(2)], [result(), result(mode="alf")]):
        columns, body, _ = table_of(results)
        assert len(columns) == len(body[0])
        assert "differs in" not in columns


def test_two_results_of_one_classifier_count_once_in_a_mean(capsys):
    """A second result of it, made in another world, is no second run."""
    first, second = (result(weights="w", world={"torch": version}) for version in "12")
    assert once_each([first, second, result(2, weights="v")]) == [first, result(2, weights="v")]
    assert "1 results are of classifiers that are counted already" in capsys.readouterr().err
    assert "±" not in table_of([first, second], "means")[1][0][4]


def test_some_corruptions_have_a_column():
    by = {name: {level: {"percent": p} for level, p in (("1", 90.0), ("5", 50.0))} for name in ("fog", "snow")}
    columns, body, legend = table_of([result(corruptions=by), result(2)])
    at = columns.index("corruptions")
    assert body[0][at] == "fog 70.0 % (at 1, 5), snow 70.0 % (at 1, 5)"
    assert body[1][at] == "–"
    assert "corruptions: the mean" in legend


def test_the_constant_answer_is_beside_the_scores():
    columns, body, legend = table_of([result(constant={"percent": 19.6}), result(2)])
    at = columns.index("constant")
    assert (body[0][at], body[1][at]) == ("19.6 %", "–")
    assert "most frequent class" in legend
    assert "constant" not in table_of([result()])[0]
    columns, body, _ = table_of([result(constant={"percent": 19.6})], "means")
    assert body[0][columns.index("constant")] == "19.6 %"
