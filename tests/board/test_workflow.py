"""The workflow's script: good, tampered and foreign files, by name and from an issue; weights attacked again."""

import copy
import json
import runpy
import sys
from pathlib import Path

import pytest
from fitted import least_squares, write_run
from made import result, tampered

import unshaken
from processes import Forked
from unshaken.base.json_files import with_checksum
from unshaken.board.submit import submission
from unshaken.evaluation.protocol import Evaluation
from unshaken.runs.evaluate import evaluate

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".github" / "scripts" / "check_submission.py"


def check(*args):
    def script():
        sys.argv = [str(SCRIPT), *map(str, args)]
        runpy.run_path(str(SCRIPT), run_name="__main__")

    done = Forked(script)
    said = done.communicate()[0].decode()
    return done.returncode, said.splitlines()


def test_files_get_a_line_each(tmp_path):
    texts = {"good": json.dumps(result()), "foreign": '{"top1": 99}', "photo": "\x89PNG"}
    texts |= {name: json.dumps(tampered(name)[0]) for name in ("a count", "a bit", "a seed in the list")}
    files = [tmp_path / f"{name}.json" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text)
    code, lines = check(*files)
    assert code == 1
    assert len(lines) == len(files)
    assert lines[0].startswith(f"{files[0]}: accepted: ")
    assert all(line.startswith(f"{file}: refused: ") for file, line in zip(files[1:], lines[1:], strict=True))
    assert check(files[0])[0] == 0


def test_a_submission_names_data_and_not_where_they_lie(tmp_path):
    local = result()
    for phase in ("pretrain", "finetune"):
        local[phase]["recipe"]["data"] = {"type": "DataSource", "name": "/home/me/sets/cifar10", "root": "/home/me"}
    del local["checksum"]
    (tmp_path / "result.json").write_text(json.dumps(with_checksum(local)))
    sent = submission(tmp_path)["result"]
    assert "/home" not in json.dumps(sent)
    assert sent["pretrain"]["recipe"]["data"]["name"] == "cifar10"
    assert sent["robust"] == local["robust"]  # verdict bits may look like a path


def test_an_issue_holds_the_file_in_a_fence(tmp_path):
    run = tmp_path / "result.json"
    run.write_text(json.dumps(result()))
    content = with_checksum(submission(run, "A. Author"))
    body = tmp_path / "body.md"
    body.write_text(f"### The file\n\n```json\n{json.dumps(content, indent=1)}\n```\n\n### Paper or page\n\nnone\n")
    assert check("--issue", body)[0] == 0
    changed = copy.deepcopy(content)
    changed["result"]["seeds"]["pretrain"] = changed["result"]["pretrain"]["recipe"]["seed"] = 5
    body.write_text(f"```\n{json.dumps(changed)}\n```")
    code, lines = check("--issue", body)
    assert code == 1
    assert lines == [f"{body}: refused: checksum: it is not that of the submission: something in it was changed"]


@pytest.mark.slow
def test_weights_are_attacked_again(tmp_path):
    run = write_run(tmp_path / "slf-digits-1", least_squares(1))
    evaluate(run, evaluation=Evaluation(limit=40, batch_size=20), workspace=unshaken.Workspace(quiet=True))
    file = next(run.glob("result*.json"))
    code, lines = check(file, "--weights", run, "--sample", "20")
    assert (code, len(lines)) == (0, 1)
    assert "20 images were attacked again and agree" in lines[0]
    other = write_run(tmp_path / "other", least_squares(2))
    code, lines = check(file, "--weights", other)
    assert code == 1
    assert "is of weights" in lines[0]


def test_the_workflow_and_the_template_are_there():
    workflow = (ROOT / ".github/workflows/board.yml").read_text()
    assert "check_submission.py" in workflow
    assert "unshaken board results" in workflow
    assert "${{ github.event.issue.body }}" not in workflow.split("run: |")[-1].split("env:")[0]  # no text as a command
    assert "submission" in (ROOT / ".github/ISSUE_TEMPLATE/result.yml").read_text()
