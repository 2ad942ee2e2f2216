"""A frontier's runs: which they are, that they are found again, and that chance costs what the selector did."""

import json
import re
from dataclasses import replace
from functools import partial

import pytest

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import write_json
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import Random
from unshaken.evaluation.protocol import Evaluation
from unshaken.runs import frontier
from unshaken.runs.evaluate import evaluate
from unshaken.runs.finetune import finetune_recipe
from unshaken.runs.frontier import Frontier, coreset_pair

QUICK = ["--epochs", "2", "--batch-size", "32", "--data.limit", "64", "--method.attack.steps", "1"]
SELECT = ["--coreset.warmup", "1", "--coreset.every", "1", "--coreset.attack.steps", "1", "--coreset.batch-size", "16"]


@pytest.mark.parametrize(
    ("name", "part", "whole"),
    [
        ("acl/digits", "acl-rcs", "acl"),
        ("acl-rcs/digits", "acl-rcs", "acl"),
        ("dynacl-plain/cifar10", "dynacl-rcs", "dynacl-plain"),
        ("dynacl-rcs", "dynacl-rcs", "dynacl-plain"),
        ("rocl/cifar10", "rocl", "rocl"),
    ],
)
def test_a_recipe_and_the_same_on_coresets(name, part, whole):
    found, called = coreset_pair(name)
    assert (found.name, called) == (part, whole)
    data = name.partition("/")[2] or "cifar10"
    bare = replace(found, name=whole, coreset=None)
    if data == "digits":  # coresets are trained on for longer there
        assert (found.epochs, found.batch_size, found.coreset.warmup, found.coreset.every) == (100, 64, 20, 5)
        bare = replace(bare, epochs=30, batch_size=128)
    else:
        assert found.coreset == RCS(0.2, found.epochs // 10, max(1, found.epochs // 50), attack=found.coreset.attack)
    assert bare == unshaken.recipe(f"{whole}/{data}")


def test_sets_that_few_methods_are_offered_for():
    found, called = coreset_pair("sat/imagenet32")
    assert (found.name, called, found.coreset.fraction) == ("sat-rcs", "sat", 0.1)


def test_the_fraction_that_costs_as_much_is_of_the_runs_own_seconds(tmp_path):
    """4 epochs of warm-up in 8 s; 20 s of selections are 10 of the 16 epochs after."""
    plan = Frontier(replace(coreset_pair("acl/digits")[0], epochs=20, coreset=RCS(warmup=4)), "acl")
    spent = {"warmup": 8.0, "selection": 20.0, "training": 5.0}
    write_json(tmp_path / "run.json", {"digest": "d", "seconds": 33.0, "spent": spent})
    assert plan.random_fraction_at_cost(RCS(0.1, warmup=4), tmp_path) == 0.725
    write_json(tmp_path / "run.json", {"digest": "d", "seconds": 33.0})
    with pytest.raises(ValueError, match="does not have the seconds of its selections"):
        plan.random_fraction_at_cost(RCS(0.1, warmup=4), tmp_path)


@pytest.mark.slow
@pytest.mark.extra
def test_a_frontier_is_run_found_again_and_drawn(tmp_path, capsys, monkeypatch):
    """Four pre-training runs, each fine-tuned with the same seed; a second time nothing is trained."""
    monkeypatch.setattr(frontier, "evaluate", partial(evaluate, evaluation=Evaluation(PGD(Linf(0.1), 1), limit=40)))
    brief = lambda *given: replace(finetune_recipe(*given), epochs=2)  # noqa: E731
    monkeypatch.setattr(frontier, "finetune_recipe", brief)
    args = ["frontier", "acl/digits", "--fractions", "0.25", "--seeds", "2", *QUICK, *SELECT]
    args += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "figure"), "--runtime.threads", "1"]
    assert cli.run(args) == 0
    said = capsys.readouterr()
    assert "at the cost of RCS 0.25: SA" in said.err
    assert (tmp_path / "figure.md").read_text() == said.out
    assert all(f"| {name} | 2 | 40 |" in said.out for name in ("all images | 1", "RCS | 0.25", "Random | 0.25"))
    dear = float(re.search(r"\| Random at the cost of RCS 0.25 \| (\S+) \| 2 \| 40 \|", said.out).group(1))
    tuned = [json.loads(file.read_text())["recipe"]["seed"] for file in tmp_path.rglob("slf-*/recipe.json")]
    assert tuned == [2, 2, 2, 2]
    recipes = [json.loads((run / "recipe.json").read_text())["recipe"] for run in (tmp_path / "runs").iterdir()]
    whole = [(r["name"], r["seed"]) for r in recipes if r["coreset"] is None]
    assert sorted(whole) == [("acl", 2)]
    parts = [
        (r["coreset"]["type"], r["coreset"]["fraction"], r["seed"], r["coreset"]["warmup"])
        for r in recipes
        if r["coreset"]
    ]
    kinds = [("RCS", 0.25), ("Random", 0.25), ("Random", dear)]
    assert sorted(parts) == sorted((*kind, 2, 1) for kind in kinds)

    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("run.json")}
    assert len(before) == 8
    assert cli.run(args) == 0
    assert capsys.readouterr().out == said.out
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("run.json")} == before
    assert cli.run(["frontier", str(tmp_path / "runs"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again.svg").read_text() == (tmp_path / "figure.svg").read_text()


def test_chance_is_chosen_anew_when_the_selector_is():
    """And sets the same images aside."""
    seen = []

    def judged(plan, chosen, what, *rest):
        seen.append(chosen)
        return None, {}

    part = replace(coreset_pair("acl/digits")[0], coreset=RCS(0.3, warmup=2, every=3, validation=0.05))
    plan = Frontier(part, "acl", fractions=(0.1, 0.4), seeds=(7, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frontier, "_measured", judged)
        patch.setattr(Frontier, "random_fraction_at_cost", lambda plan, selector, run: 2 * selector.fraction)
        assert len(list(plan.run(unshaken.Workspace("nowhere")))) == 14
    assert [chosen.seed for chosen in seen] == [7] * 7 + [8] * 7
    by_chance = [Random(f, warmup=2, every=3, validation=0.05) for f in (0.1, 0.2, 0.4, 0.8)]
    rcs = [replace(part.coreset, fraction=f) for f in (0.1, 0.4)]
    assert [chosen.coreset for chosen in seen[:7]] == [None, rcs[0], *by_chance[:2], rcs[1], *by_chance[2:]]
