"""The site: whole, safe for what files say, a function of the results alone; and what is made to submit one."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from made import resealed, result, some, write

from unshaken import cli
from unshaken.base.locks import Lock
from unshaken.base.serialize import to_json
from unshaken.board.check import read
from unshaken.board.collect import Receipt, receipts
from unshaken.board.remake import commands, options, usual_pretrain
from unshaken.board.reported import published
from unshaken.board.rows import rows_of
from unshaken.board.site import SCRIPTS
from unshaken.board.site import write as write_site
from unshaken.board.submit import without_local_paths
from unshaken.commands.board import dates_of
from unshaken.options import parse
from unshaken.recipes.catalog import recipe
from unshaken.runs.evaluate import default_evaluation


@pytest.fixture
def found(tmp_path):
    return receipts([write(tmp_path / "results", some())])


def data_of(site):
    text = (site / "data.js").read_text()
    return json.loads(text[text.index("Board.data = ") + 13 : text.rindex(";")])


def test_everything_is_there_and_nothing_is_fetched(found, tmp_path):
    write_site(tmp_path / "site", found, published())
    site = tmp_path / "site"
    data = data_of(site)
    assert {row["kind"] for row in data["rows"]} == {"measured", "reported"}
    for row in data["rows"]:
        if row["kind"] == "measured":
            text = (site / "rows" / f"{row['id']}.js").read_text()
            runs = json.loads(re.search(r", (\{.*\})\);", text).group(1))["runs"]
            assert all((site / run["copy"]).exists() for run in runs)
    assert (site / "bits" / "digits-digits-linf-0.1-resnet-small.js").exists()
    for page in site.glob("*.html"):
        loaded = re.findall(r'(?:src|<link[^>]* href)="([^"]+)"', page.read_text())
        for name in loaded:
            assert name.startswith("data:") or (site / name).exists(), name
    for script in SCRIPTS:
        assert not re.search(r"fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", (site / f"{script}.js").read_text())


def test_the_same_results_give_the_same_site(found, tmp_path):
    for name in ("a", "b"):
        write_site(tmp_path / name, found, published())
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_no_number_of_a_placeholder_is_in_the_plain_page(found, tmp_path):
    write_site(tmp_path / "site", found, published())
    page = (tmp_path / "site" / "plain.html").read_text()
    assert page.count("missing") >= 39
    assert "37.92 " not in page.replace("37.92</td>", "")  # ACL's own AutoLoRa entry is the one place of 37.92
    assert page.count("37.92") == 1


def test_text_from_files_is_escaped(tmp_path):
    evil = '</script><img src=x onerror="alert(1)">'
    folder = write(tmp_path / "results", [result()])
    file = next(folder.iterdir())
    found = json.loads(file.read_text())
    found["method"] = found["pretrain"]["recipe"]["name"] = evil
    file.write_text(json.dumps(resealed(found)))
    write_site(tmp_path / "site", receipts([folder]), published())
    for page in ("plain.html", "data.js", "index.html"):
        assert "</script><img" not in (tmp_path / "site" / page).read_text()


def test_a_folder_with_other_files_is_refused_and_unchanged(found, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else than a board"):
        write_site(tmp_path / "mine", found, published())
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    write_site(tmp_path / "site", found, published())
    write_site(tmp_path / "site", found[:1], published())
    assert len(list((tmp_path / "site" / "results").iterdir())) == 1


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", f".board.{'0a' * 6}.part"]])
def test_a_board_that_was_killed_at_its_start_is_rebuilt(left, found, tmp_path):
    (tmp_path / "site").mkdir()
    for name in left:
        (tmp_path / "site" / name).write_bytes(b"")
    write_site(tmp_path / "site", found, published())
    names = {file.name for file in (tmp_path / "site").iterdir()}
    assert {".board", "index.html"} < names
    assert not [name for name in names if name.endswith(".part")]


def test_two_boards_at_once_wait_for_each_other(found, tmp_path):
    (tmp_path / "site").mkdir()
    with Lock(tmp_path / "site" / ".lock"):
        other = threading.Thread(target=write_site, args=(tmp_path / "site", found, published()), daemon=True)
        other.start()
        other.join(0.3)
        assert not (tmp_path / "site" / ".board").exists()
    other.join(60)
    assert (tmp_path / "site" / "index.html").exists()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("acl/digits", ["--epochs", "7", "--batch-size", "64"]),
        ("acl-rcs/digits", ["--coreset", "Random", "--coreset.fraction", "0.3"]),
        ("acl/digits", ["--approximations.replays", "2", "--method.tau", "0.2", "--method.attack.ball.eps", "0.05"]),
        ("advcl/digits", []),
        ("dynacl/digits", ["--optimizer", "SGD", "--lr.peak", "0.5"]),
    ],
)
def test_the_shown_options_reproduce_the_recipe(name, args):
    wanted = parse(recipe(name), args, "test")
    method, _, data = name.partition("/")
    said = " ".join(
        options(json.loads(json.dumps(to_json(wanted))), json.loads(json.dumps(usual_pretrain(method, data))))
    )
    assert to_json(parse(recipe(name), said.split(), "test")) == to_json(wanted)


def tuned_by(name, mode, args):
    """A receipt of a row that was fine-tuned and judged with these options."""
    from unshaken.recipes.finetune import chosen

    source = recipe(f"{name}/digits").data
    found = result(name, mode)
    wanted = parse(chosen(mode, name, source, source, 8), args, "test")
    found["pretrain"]["recipe"] = json.loads(json.dumps(to_json(recipe(f"{name}/digits")))) | {"seed": 1}
    found["finetune"] = {"recipe": json.loads(json.dumps(to_json(wanted))), "data": {"images": found["data"]}}
    return found, wanted


@pytest.mark.parametrize(
    ("mode", "args"),
    [
        ("slf", []),
        ("slf", ["--epochs", "7", "--batch-size", "64", "--lr.peak", "0.5", "--optimizer.weight-decay", "0.001"]),
        ("alf", ["--method.attack.steps", "3", "--method.attack.ball.eps", "0.05"]),
        ("aff", ["--lr", "Constant", "--lr.value", "0.01", "--holdout", "4"]),
    ],
)
def test_the_shown_commands_reproduce_the_row(mode, args):
    found, wanted = tuned_by("acl", mode, args)
    found["evaluation"] |= {"autoattack": "standard", "limit": 100, "seed": 3}
    row = rows_of([Receipt(Path("a.json"), found)])[0]
    text = "\n".join(commands(row)).replace(" \\\n   ", "")
    tune = next(line for line in text.splitlines() if "finetune" in line).split()
    said = tune[tune.index("$S") + 1 :]
    assert to_json(parse(chosen_for(mode), said, "test")) == to_json(wanted)
    judge = next(line for line in text.splitlines() if "evaluate" in line)
    assert judge.split()[3:] == ["--seed", "3", "--autoattack", "standard", "--limit", "100"]


def chosen_for(mode):
    from unshaken.recipes.finetune import chosen

    source = recipe("acl/digits").data
    return chosen(mode, "acl", source, source, 8)


def test_modes_with_other_evaluations_have_separate_commands():
    slf, alf = (tuned_by("acl", mode, [])[0] for mode in ("slf", "alf"))
    alf["evaluation"]["attack"]["steps"] = 20
    slf["seeds"]["finetune"] = slf["finetune"]["recipe"]["seed"] = 2
    slf["evaluation"] = json.loads(json.dumps(to_json(default_evaluation(recipe("acl/digits").data).full)))
    text = "\n".join(commands(rows_of([Receipt(Path("a.json"), slf), Receipt(Path("b.json"), alf)])[0]))
    assert "for PAIR in 1/2 1/1; do" in text
    assert "unshaken evaluate $RUN/acl-*/slf-* --full" in text
    assert text.splitlines()[-2].strip() == "unshaken evaluate $RUN/acl-*/alf-*"


def run_folder(tmp_path):
    """A result in its run's folder, with what runs leave beside it."""
    run = tmp_path / "runs" / "acl-digits-1" / "slf-digits-1"
    run.mkdir(parents=True)
    for folder in (run.parent, run):
        (folder / "recipe.json").write_text("{}")
        lines = [json.dumps({"step": k, "epoch": k, "loss": 1 / (k + 1)}) for k in range(5)]
        (folder / "log.jsonl").write_text("\n".join(lines))
    (run.parent / "encoder.safetensors.md").write_text("# A card")
    (run.parent / "curve.svg").write_text("<svg onload='alert(1)'/>")
    (run / "results").mkdir()
    (run / "results" / "log.txt").write_text("SLF standard acc: 90")
    (run / "result.json").write_text(json.dumps(result()))
    return run


def test_a_row_has_the_files_of_its_runs(tmp_path, found):
    run = run_folder(tmp_path / "other")
    write_site(tmp_path / "site", receipts([run]), published())
    detail = next((tmp_path / "site" / "rows").iterdir()).read_text()
    (run,) = json.loads(re.search(r", (\{.*\})\);", detail).group(1))["runs"]
    titles = [title for title, _ in run["files"]]
    parts = ("curve", "log", "recipe")
    pretraining = [f"pre-training: {part}" for part in (*parts, "model card")]
    assert titles == [*pretraining, *(f"fine-tuning: {part}" for part in parts), "the papers' log"]
    texts = {title: (tmp_path / "site" / name).read_text() for title, name in run["files"]}
    assert texts["pre-training: model card"] == "# A card"
    assert texts["pre-training: curve"].startswith("<svg")
    assert "alert" not in texts["pre-training: curve"]  # drawn from the log
    write_site(tmp_path / "site", found, published())
    assert not (tmp_path / "site" / "files").exists()  # results that lie alone


def test_a_row_says_what_its_results_say_of_cost_and_date(tmp_path):
    results = [
        resealed(result(seed=seed) | {"date": f"2026-03-0{seed}", "cost": {"memory_gb": seed}}) for seed in (1, 2)
    ]
    write_site(tmp_path / "site", receipts([write(tmp_path / "results", results)]), published())
    row = next(row for row in data_of(tmp_path / "site")["rows"] if row["kind"] == "measured")
    assert row["date"] == "2026-03-02"
    assert row["cost"]["memory_gb"] == 1.5
    assert row["version"] == "0.1.0"


def test_a_submission_is_one_file_that_cannot_be_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "slf-digits-1"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(result()))
    assert cli.run(["submit", str(run), "--by", "A. Author", "--weights", "https://example.org/c.safetensors"]) == 0
    file = tmp_path / capsys.readouterr().out.strip()
    assert file.name == "submission-acl-slf-seed1.json"
    found, beside = read(file.read_text())
    assert found == without_local_paths(result())
    assert beside["by"] == "A. Author"
    assert cli.run(["submit", "--check", str(file)]) == 0
    assert "agrees with itself" in capsys.readouterr().out
    file.write_text(file.read_text().replace("A. Author", "B. Author"))
    assert cli.run(["submit", "--check", str(file)]) == 2
    assert "checksum: it is not that of the submission" in capsys.readouterr().err
    assert cli.run(["submit", str(tmp_path / "runs"), "--by", "x"]) == 2
    assert "there is no result in" in capsys.readouterr().err
    assert cli.run(["submit", str(run), "--weights", "file.pt"]) == 2


def test_the_command_says_what_it_made(tmp_path, capsys):
    write(tmp_path / "results", some())
    assert cli.run(["board", str(tmp_path / "results"), "--out", str(tmp_path / "site")]) == 0
    said = capsys.readouterr().out
    assert "21 results, 4 rows measured" in said
    assert cli.run(["board", str(tmp_path / "nothing"), "--out", str(tmp_path / "site")]) == 2
    assert cli.run(["board"]) == 2


def test_a_file_s_date_is_that_of_its_first_commit(tmp_path):
    folder = write(tmp_path / "results", [result(), result(seed=2)])
    files = sorted(folder.iterdir())
    assert dates_of(files) == {}  # no checkout: no date, and no failure
    dates = {"GIT_AUTHOR_DATE": "2026-03-04T12:00:00Z", "GIT_COMMITTER_DATE": "2026-03-04T12:00:00Z"}
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", files[0].name], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, env=os.environ | dates)
    assert dates_of(files) == {files[0]: "2026-03-04"}
    assert receipts([folder], dates_of(files))[0].date == "2026-03-04"
