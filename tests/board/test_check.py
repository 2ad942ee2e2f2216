"""A result that was tampered with is refused in one line, by Python; the page says the same (tests/browser)."""

import json
from pathlib import Path

import pytest
from made import TAMPERED, resealed, result, tampered

import unshaken
from unshaken import cli
from unshaken.board.check import fault, identity, read
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import scores_that_disagree
from unshaken.runs.evaluate import evaluate

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_results_are_refused(name):
    found, said = tampered(name)
    wrong = fault(found)
    assert wrong is not None
    assert said in wrong
    assert "\n" not in wrong
    with pytest.raises(ValueError, match="^"):
        read(json.dumps(found))


def test_untampered_results_are_accepted():
    assert fault(result()) is None
    assert fault(result(autoattack=True)) is None
    later = result() | {"a field of later": "x"}
    assert fault(resealed(later)) is None
    assert fault(later).startswith("checksum: ")


def test_every_result_of_the_repository_agrees_with_itself():
    for file in sorted(RESULTS.rglob("*.json")):
        read(file.read_text())


def test_a_foreign_file_is_told_from_a_result():
    for text, said in (("{", "cannot be read as JSON"), ("[]", "no JSON object"), ("{}", "has no 'method'")):
        with pytest.raises(ValueError, match=said):
            read(text)


def test_the_digest_is_that_of_a_real_evaluation(tmp_path):
    """The identity is written by evaluation/verdict_log.py from the values themselves, and read here from the file."""
    from fitted import least_squares, write_run

    run = write_run(tmp_path / "slf-digits-1", least_squares(1))
    evaluate(run, evaluation=Evaluation(limit=40, batch_size=20), workspace=unshaken.Workspace(quiet=True))
    found = json.loads(next(run.glob("result*.json")).read_text())
    assert found["notes"] == identity(found)
    assert fault(found) is None
    assert scores_that_disagree(found) == []
    queries = Evaluation(limit=40, batch_size=20, attacks="queries", queries=2, autoattack_limit=20)
    square = evaluate(run, evaluation=queries, workspace=unshaken.Workspace(quiet=True))
    assert square["notes"] == identity(json.loads((run / f"{square['file']}.json").read_text()))
    found["evaluation"]["seed"] = found["seeds"]["evaluation"] = 5
    assert fault(found).startswith("notes: ")


@pytest.mark.parametrize("name", ["a count", "a bit", "a seed in the list"])
def test_the_command_refuses_it_by_name(tmp_path, capsys, name):
    found, said = tampered(name)
    file = tmp_path / "result.json"
    file.write_text(json.dumps(found))
    for command in (["board", str(file), "--out", str(tmp_path / "site")], ["submit", "--check", str(file)]):
        assert cli.run(command) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert f"{file}: {said}" in lines[0]
    assert not (tmp_path / "site" / "index.html").exists()
