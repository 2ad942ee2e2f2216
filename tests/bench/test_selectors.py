"""Selectors against chance: the tests by counts, and a shared warm-up that changes no bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from bench.selectors import WHEN, WarmedUp, main, paired, selectors, summary

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.packed_bits import pack_bits
from unshaken.coreset.selector import Random
from unshaken.train.image_sets import slug

ATTACK = PGD(Linf(0.1), 1)


def run(right: str, seconds: float = 1.0) -> dict:
    """Verdicts such as "1101", the same clean and under attack."""
    bits = np.array([one == "1" for one in right])
    verdicts = {"correct": int(bits.sum()), "n": len(bits), "bits": pack_bits(bits)}
    classes = {"selected": [1], "candidates": [1], "total_variation": 0.25, "random_mean": 0.5}
    return {"standard": verdicts, "robust": verdicts, "seconds": {"selection": seconds}, "classes": [classes]}


def test_pairs_are_counted_over_the_seeds_that_both_have():
    mine = {"1": run("11110000"), "2": run("11111111"), "3": run("11111111")}
    chance = {"1": run("01000001"), "2": run("11110000")}
    assert paired(mine, chance, "robust") == {"better": 3 + 4, "worse": 1, "p": 0.0703}  # 2 (1 + 8) / 2⁸
    rows = summary({"chance": chance, "other": mine})
    assert "robust against chance" not in rows[0]
    assert rows[1]["robust against chance"]["p by seed"] == {"1": 0.625, "2": 0.125}
    assert (rows[1]["robust"], rows[1]["seeds"]) == ([4, 8, 8], ["1", "2", "3"])
    assert (rows[1]["total variation"], rows[1]["random total variation"]) == (0.25, 0.5)


def test_all_selectors_have_the_same_candidates_and_warm_up():
    every = selectors(ATTACK)
    assert len({repr(one) for one in every.values()}) == len(every) == 7
    assert {(one.warmup, one.validation) for one in every.values()} == {(WHEN["warmup"], WHEN["validation"])}
    assert {one.fraction for name, one in every.items() if name != "all images"} == {0.2}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(WHEN, "warmup", 1)
    monkeypatch.setitem(WHEN, "every", 1)
    base = unshaken.recipe("acl-rcs/digits")
    method = replace(base.method, attack=ATTACK)
    data = unshaken.DataSource(limit=40)
    return replace(base, method=method, data=data, epochs=2, batch_size=8, coreset=Random(0.25, 1, 1, 0.1))


def test_a_shared_warm_up_gives_the_same_network(tiny, tmp_path):
    other, digests = replace(tiny, coreset=replace(tiny.coreset, fraction=0.5)), []
    for name, before in (("alone", []), ("shared", [tiny])):
        workspace = unshaken.Workspace(tmp_path / name, quiet=True)
        kept = WarmedUp(tmp_path / f"{name}.safetensors")
        for one in (*before, other):
            kept.give(workspace.folder(f"{one.name}-{slug(one.data)}", one))
            done = unshaken.pretrain(one, workspace, observers=[kept])
        digests.append(json.loads((done / "run.json").read_text())["digest"])
        steps = [json.loads(line)["step"] for line in (done / "log.jsonl").read_text().splitlines()]
        assert (min(steps) <= 5) == (name == "alone")  # a warm-up of five batches
    assert digests[0] == digests[1]


@pytest.mark.extra
def test_the_command_makes_all_rows_and_finds_them_again(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.selectors.pretraining", lambda data, out: tiny)
    for _ in range(2):
        main(["--out", str(tmp_path), "--seeds", "1"])
        said = capsys.readouterr()
        result = json.loads(said.out.splitlines()[-1])
        assert [row["selector"] for row in result["rows"]] == list(selectors(ATTACK))
        assert all(len(row["robust"]) == 1 for row in result["rows"])
    assert said.err.count("found finished") >= 7
