"""The frontier: results to points, total against total; what cannot be compared is refused in one line."""

import copy
from statistics import stdev
from xml.etree import ElementTree

import numpy
import pytest

from unshaken import cli
from unshaken.base.json_files import write_json
from unshaken.base.packed_bits import pack_bits
from unshaken.report.frontier import COLUMNS, picture, points, rows

CHOICES = {"warmup": 10, "every": 2, "validation": 0.01}


def score(correct: int) -> dict:
    """Of 40 images."""
    bits = pack_bits(numpy.arange(40) < correct)
    return {"correct": correct, "n": 40, "percent": 2.5 * correct, "interval95": [60.1, 85.9], "bits": bits}


def result(
    selector: str | None = None, fraction: float = 1.0, seed: int = 1, robust: int = 30, spent=None, **choices
) -> dict:
    """One result of 40 images. By default all images take 100 s."""
    spent = spent or ({"training": 100.0} if selector is None else {"warmup": 10.0, "selection": 4.0, "training": 18.0})
    coreset = selector and {"type": selector, "fraction": fraction, **CHOICES, **choices}
    recipe = {"name": "acl-rcs" if selector else "acl", "method": {"type": "ACL"}, "seed": seed, "epochs": 100}
    return {
        "method": recipe["name"],
        "mode": "slf",
        "data": {"name": "digits", "split": "test", "n": 40, "digest": "d"},
        "standard": score(38),
        "robust": score(robust),
        "seeds": {"pretrain": seed, "finetune": seed, "evaluation": 1},
        "seconds": {"pretrain": sum(spent.values()), "finetune": 2.0, "evaluation": 1.0},
        "spent": spent,
        "evaluation": {"attack": {"steps": 20, "ball": {"type": "Linf", "eps": 8 / 255}}, "seed": 1},
        "weights": str(seed),
        "world": {},
        "pretrain": {"recipe": recipe | {"coreset": coreset}, "data": {"precision": "float32"}},
        "finetune": {"recipe": {"seed": seed, "method": {"type": "SLF"}}, "data": {"encoder": str(seed)}},
    }


def by_column(row: tuple) -> dict:
    return dict(zip(COLUMNS, row, strict=True))


def test_the_table_has_means_counts_seconds_and_speedups():
    whole = [result(seed=1), result(seed=2, robust=34, spent={"training": 110.0})]
    slow = {"warmup": 12.0, "selection": 5.0, "training": 17.0}
    rcs = [result("RCS", 0.2, 1, 28), result("RCS", 0.2, 2, 30, slow)]
    first, second = map(by_column, rows(points([*rcs, *whole])))
    assert (first["selector"], first["fraction"], first["seeds"], first["n"]) == ("all images", "1", "1, 2", "40")
    assert (first["warm-up s"], first["selection s"], first["training s"]) == ("–", "–", "105.0")
    assert first["speed-up"] == "1.00 ± 0.00"
    assert (second["selector"], second["fraction"], second["seeds"]) == ("RCS", "0.2", "1, 2")
    assert second["SA"] == "95.0 ± 0.0 % (38, 38)"
    assert second["RA"] == f"72.5 ± {stdev([70, 75]):.1f} % (28, 30)"
    assert (second["warm-up s"], second["selection s"], second["training s"]) == ("11.0", "4.5", "17.5")
    ratios = [100 / 32, 110 / 34]  # of the same seed, in all
    assert second["speed-up"] == f"{sum(ratios) / 2:.2f} ± {stdev(ratios):.2f}"


def test_a_mean_of_seconds_needs_all_runs():
    old = result("RCS", 0.2, 2)
    del old["spent"]
    row = by_column(rows(points([result(), result("RCS", 0.2, 1), old]))[1])
    assert (row["seeds"], row["selection s"]) == ("1, 2", "–")


def test_a_seed_without_a_full_run_is_compared_with_the_mean_of_full_runs():
    whole = [result(seed=1), result(seed=2, spent={"training": 120.0})]
    (_, point) = points([*whole, result("RCS", 0.2, 3)])
    assert point.speedups == [110 / 32]


def test_rows_are_all_images_then_random_then_selectors_by_fraction():
    parts = [result("RCS", 0.2), result("KCenter", 0.1), result("RCS", 0.1), result("Random", 0.2)]
    found = points([*parts, result()])
    assert [(p.series, p.fraction) for p in found] == [
        ("all images", (1.0,)),
        ("Random", (0.2,)),
        ("KCenter", (0.1,)),
        ("RCS", (0.1,)),
        ("RCS", (0.2,)),
    ]


def test_random_images_at_the_cost_of_a_selector_have_a_separate_row():
    """An epoch on all takes 1 s: 4 s of selections in 90 epochs are 0.044 of the images, 8 s are 0.089."""
    dear = {"warmup": 10.0, "selection": 8.0, "training": 18.0}
    parts = [result("RCS", 0.2, 1), result("RCS", 0.2, 2, spent=dear), result("RCS", 0.1, 1)]
    chance = [result("Random", f, seed) for f, seed in ((0.2, 1), (0.244, 1), (0.289, 2), (0.144, 1), (0.289, 1))]
    found = [by_column(row) for row in rows(points([result(), *parts, *chance]))]
    assert [(row["selector"], row["fraction"], row["seeds"]) for row in found] == [
        ("all images", "1", "1"),
        ("Random", "0.2", "1"),
        ("Random", "0.289", "1"),  # which costs what RCS did with another seed
        ("Random at the cost of RCS 0.1", "0.144", "1"),
        ("Random at the cost of RCS 0.2", "0.244 to 0.289", "1, 2"),
        ("RCS", "0.1", "1"),
        ("RCS", "0.2", "1, 2"),
    ]


def test_one_random_run_can_match_the_cost_of_two_selectors():
    """Where selections are so dear that both are as dear as all images; or where it has another selector's fraction."""
    dear = {"warmup": 10.0, "selection": 800.0, "training": 18.0}
    parts = [result("RCS", 0.1, spent=dear), result("RCS", 0.2, spent=dear), result("Random", 1.0)]
    names = [row[0] for row in rows(points([result(), *parts]))]
    assert names[1:3] == ["Random at the cost of RCS 0.1", "Random at the cost of RCS 0.2"]
    even = {"warmup": 10.0, "selection": 9.0, "training": 9.0}
    parts = [result("RCS", 0.1, spent=even), result("RCS", 0.2), result("Random", 0.2)]
    names = [row[0] for row in rows(points([result(), *parts]))]
    assert names[1:3] == ["Random", "Random at the cost of RCS 0.1"]


def test_selectors_of_one_name_are_distinguished_by_their_options():
    parts = [result("RCS", 0.2, granularity="batch"), result("RCS", 0.2, granularity="sample"), result("Random", 0.2)]
    found = [p.series for p in points([result(), *parts])]
    assert found == ["all images", "Random", "RCS (granularity batch)", "RCS (granularity sample)"]


def test_results_without_separate_times_have_only_a_speed_up():
    """Their total is known; what it was spent on is not."""
    old = result("RCS", 0.2)
    del old["spent"]
    _, row = map(by_column, rows(points([result(), old])))
    assert (row["warm-up s"], row["selection s"], row["training s"], row["speed-up"]) == ("–", "–", "–", "3.12")


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([result()], "a frontier needs some on coresets too"),
        ([result("RCS", 0.2)], "no result is of a run on all images"),
        ([result(), result("RCS", 0.2), result() | {"mode": "aff"}], "choose one by --mode"),
        ([result(), result("RCS", 0.2) | {"data": {"name": "cifar10"}}], "acl SLF on digits, acl-rcs SLF on cifar10"),
    ],
)
def test_incomparable_results_are_refused(results, words):
    with pytest.raises(ValueError, match=words):
        points(results)


def test_other_recipes_are_not_compared():
    other = copy.deepcopy(result("RCS", 0.2))
    other["pretrain"]["recipe"]["epochs"] = 4
    with pytest.raises(ValueError, match="differ in pretrain"):
        points([result(), other])


def test_a_figure_refuses_a_run_of_unknown_time():
    lost = result("RCS", 0.2) | {"spent": None}
    lost["seconds"]["pretrain"] = None
    found = points([result(), lost])
    assert by_column(rows(found)[1])["speed-up"] == "–"
    with pytest.raises(ValueError, match="seconds of pre-training are unknown for RCS 0.2"):
        picture(found)


def written(folder, results) -> None:
    for k, each in enumerate(results):
        (folder / f"run{k}").mkdir(parents=True)
        write_json(folder / f"run{k}" / "result.json", each)


def test_the_command_draws_existing_results(tmp_path, capsys):
    aff = [result() | {"mode": "aff"}, result("RCS", 0.2) | {"mode": "aff"}]
    written(tmp_path / "runs", [result(), result("RCS", 0.2, robust=28), *aff])
    args = ["frontier", str(tmp_path / "runs"), str(tmp_path / "runs" / "run0"), "--out", str(tmp_path / "figure.svg")]
    assert cli.run(args) == 2
    assert "choose one by --mode" in capsys.readouterr().err
    assert cli.run([*args, "--mode", "slf"]) == 0
    table = capsys.readouterr().out
    assert table == (tmp_path / "figure.md").read_text()
    assert "| all images | 1 | 1 | 40 |" in table  # once, though named twice
    assert "| RCS | 0.2 | 1 | 40 | 95.0 % (38) | 70.0 % (28) | 10.0 | 4.0 | 18.0 | 3.12 |" in table
    words = [t.text for t in ElementTree.parse(tmp_path / "figure.svg").iter("{http://www.w3.org/2000/svg}title")]
    assert words[0] == "acl on digits, SLF: accuracy against speed-up of pre-training"
    assert "RCS 0.2: 3.12, 70.00" in words
    assert cli.run([*args, "--mode", "alf"]) == 2
    assert "none of these results is of mode 'alf'; their modes are aff, slf" in capsys.readouterr().err


def test_an_empty_folder_is_reported(tmp_path, capsys):
    assert cli.run(["frontier", str(tmp_path)]) == 2
    assert "there is no result.json" in capsys.readouterr().err
