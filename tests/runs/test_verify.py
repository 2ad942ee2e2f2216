"""Results are judged again: equal bits in the same environment, a few others elsewhere; other weights are refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from fitted import least_squares, write_run

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json
from unshaken.base.packed_bits import pack_bits, unpack_bits
from unshaken.compute.runtime import Runtime
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.verdicts import Verdicts
from unshaken.runs.evaluate import evaluate
from unshaken.runs.verify import Recheck, recheck

EXAM = Evaluation(PGD(Linf(0.02), steps=2), corruptions=("contrast",), severities=(3,), batch_size=60)
NAME = "result-eps0.02-steps2"


@pytest.fixture
def run(tmp_path) -> Path:
    run = write_run(tmp_path / "slf-digits-1", least_squares(1))
    evaluate(run, evaluation=EXAM, workspace=unshaken.Workspace(quiet=True))
    return run


def forged(run: Path, score: str, flips: int, **changes) -> Path:
    """The result with so many verdicts of each hundred turned."""
    result = read_json(run / f"{NAME}.json") | changes
    bits = unpack_bits(result[score]["bits"], 445)
    turned = numpy.arange(445) % 100 < flips
    result[score] |= Verdicts.read(result[score] | {"bits": pack_bits(bits ^ turned)}).summary()
    file = run / "forged.json"
    write_json(file, result)
    return file


def test_the_same_world_gives_the_same_bits(run):
    found = recheck(run / f"{NAME}.json", sample=100, seed=3, quiet=True)
    assert found == recheck(run / f"{NAME}.json", sample=100, seed=3, quiet=True)
    assert found == Recheck(120, 3, True, {"clean": 120, "pgd": 120, "contrast/3": 120})
    assert found.holds
    seeds = {recheck(run / f"{NAME}.json", sample=1, quiet=True).seed for _ in range(2)}
    assert len(seeds) == 2  # a draw that nobody could foresee


def test_numbers_that_are_not_those_of_the_verdicts_are_refused(run):
    kept = read_json(run / f"{NAME}.json")
    for path, value in (
        (("robust", "correct"), 444),
        (("standard", "percent"), 99.9),
        (("robust", "interval95"), [99, 100]),
        (("corruptions", "contrast", "3", "correct"), 1),
    ):
        result, file = json.loads(json.dumps(kept)), run / "altered.json"
        part = result
        for word in path[:-1]:
            part = part[word]
        part[path[-1]] = value
        write_json(file, result)
        with pytest.raises(ValueError, match="was altered: the numbers of"):
            recheck(file, sample=1, seed=3, quiet=True)
    write_json(run / "altered.json", kept | {"corruption_accuracy": {"mean": 99.0}})
    with pytest.raises(ValueError, match="numbers of corruption_accuracy"):
        recheck(run / "altered.json", sample=1, seed=3, quiet=True)


def test_one_verdict_that_was_turned_is_one_too_many(run):
    found = recheck(forged(run, "robust", 1), sample=445, seed=3, quiet=True)
    assert (found.n, found.agree["pgd"], found.agree["clean"]) == (445, 440, 445)
    assert not found.holds
    assert "pgd: 440 of 445 agree, too few" in list(found.lines())


def test_in_another_world_a_few_may_differ(run):
    elsewhere = {"world": {"torch": "another"}}
    few = recheck(forged(run, "robust", 2, **elsewhere), sample=445, seed=3, quiet=True)
    assert not few.same
    assert few.allowed == 9  # 2 % of 445
    assert not few.holds  # ten were turned
    assert recheck(forged(run, "robust", 1, **elsewhere), sample=445, seed=3, quiet=True).holds


def test_the_search_is_in_the_precision_that_it_was_in(tmp_path):
    run = write_run(tmp_path / "slf-digits-1", least_squares(1))
    few = replace(EXAM, limit=60)
    evaluate(run, evaluation=few, workspace=unshaken.Workspace(runtime=Runtime(precision="bf16"), quiet=True))
    found = recheck(run / f"{NAME}-first60.json", sample=60, seed=3, quiet=True)
    assert found.same
    assert found.holds


def test_a_part_is_judged_again_where_it_was_judged(tmp_path):
    run = write_run(tmp_path / "slf-digits-1", least_squares(1))
    part = evaluate(run, evaluation=replace(EXAM, until=40.0, batch_size=20), workspace=unshaken.Workspace(quiet=True))
    found = recheck(run / f"{NAME}-until40.json", sample=445, seed=1, quiet=True)
    assert found.n == part["robust"]["n"] < 445
    assert found.holds


def test_what_is_not_the_result_s_is_refused(run, tmp_path):
    other = write_run(tmp_path / "other", least_squares(2))
    with pytest.raises(ValueError, match="name their run by --run"):
        recheck(run / f"{NAME}.json", run=other)
    away = tmp_path / "away.json"
    away.write_text((run / f"{NAME}.json").read_text())
    assert recheck(away, sample=1, run=run, quiet=True).holds
    with pytest.raises(ValueError, match="there is no classifier in"):
        recheck(away)
    with pytest.raises(ValueError, match="name them by --data"):
        recheck(forged(run, "robust", 0, data={"name": "digits", "n": 445, "digest": "0", "split": "test"}))
    write_json(tmp_path / "no.json", {})
    with pytest.raises(ValueError, match="is not a result"):
        recheck(tmp_path / "no.json")
    with pytest.raises(ValueError, match="at least 1 image"):
        recheck(run / f"{NAME}.json", sample=0)


def test_verify_says_so(run, capsys):
    assert cli.run(["verify", str(run / f"{NAME}.json"), str(run), "--sample", "50", "--seed", "4"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{run}/{NAME}.json: agrees"
    assert "60 images (--seed 4) were judged again, in the same environment, where 0 may differ" in said[1]
    assert said[2:5] == [f"  {part}: 60 of 60 agree" for part in ("clean", "pgd", "contrast/3")]
    assert cli.run(["verify", str(forged(run, "standard", 50))]) == 2
    shown = capsys.readouterr()
    assert "forged.json: DIFFERS" in shown.out
    assert "differ from those of attacking its images again" in shown.err
