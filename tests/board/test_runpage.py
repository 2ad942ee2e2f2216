"""A page about a run: whole in one file, says what was done, and says what it lacks."""

import copy
import json
import re

import pytest
from fitted import least_squares, write_run
from made import resealed, result, tampered, write

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.board.collect import receipts
from unshaken.board.runpage import run_names, sentence
from unshaken.evaluation.protocol import Evaluation
from unshaken.runs.evaluate import evaluate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "slf-digits-1", least_squares(1))
    lines = [{"step": k, "epoch": k / 2, "loss": 3 - k / 9, "gauge": k % 3, "lr": 0.1} for k in range(9)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    attack = PGD(Linf(0.1), steps=3)
    evaluate(
        folder,
        evaluation=Evaluation(attack, corruptions=("contrast",), severities=(1, 5), limit=60, batch_size=30),
        workspace=unshaken.Workspace(quiet=True),
    )
    return folder


def test_the_page_is_complete_and_loads_nothing(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.run(["report", str(run), "--html", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for title in ("Accuracy", "Robustness against ε", "Fine-tuning", "Examples", "By class", "Common corruptions",
                  "Checks", "Provenance", "Recipe"):  # fmt: skip
        assert f"{title}</h3>" in page or f"{title}</summary>" in page, title
    found = json.loads(next(run.glob("result*.json")).read_text())
    assert f"{found['robust']['correct']} of {found['robust']['n']}" in page
    assert page.count("data:image/png") >= 3 * 4
    assert ">gauge<" in page
    shown = re.findall(r"It is <b>(\w+)</b>. Answers: <span class=\"\w+\">(\w+)</span>, under attack", page)
    assert shown[0][0] == shown[0][1]  # the first examples are right until they are attacked


def test_a_result_without_its_run_names_what_is_missing(tmp_path):
    folder = write(tmp_path / "results", [result()])
    assert cli.run(["report", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "need the classifier and its test images: there is no classifier in" in page
    assert "data:image/png" not in page


def test_a_comparison_has_paired_tests(tmp_path):
    folder = write(tmp_path / "results", [result(), result("simclr", accuracy=0.3), result(epochs=100, accuracy=0.8)])
    assert cli.run(["report", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "3 runs compared" in page
    assert "A is better" in page or "B is better" in page
    assert "acl, SLF, epochs 100" in page


def test_a_page_does_not_overwrite_other_files(run, capsys):
    before = (run / "classifier.safetensors").read_bytes()
    assert cli.run(["report", str(run), "--html", str(run / "classifier.safetensors")]) == 2
    assert "--html takes a file that ends in .html" in capsys.readouterr().err
    assert (run / "classifier.safetensors").read_bytes() == before


def test_a_tampered_result_gives_no_page(tmp_path, capsys):
    write(tmp_path / "results", [tampered("a count")[0]])
    assert cli.run(["report", str(tmp_path / "results"), "--html", str(tmp_path / "page.html")]) == 2
    assert "robust: it counts" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_names_of_runs_are_unique(tmp_path):
    found = [result(seed=1), result(seed=2), result(mode="alf"), result(epochs=100), result("dynacl")]
    names = run_names(receipts([write(tmp_path / "results", found)]))
    assert len(set(names)) == 5
    assert any("seeds 2/2/1" in name for name in names)
    again = copy.deepcopy(found[0])
    write(
        tmp_path / "elsewhere", [resealed(again | {"seconds": {"pretrain": 1.0, "finetune": 1.0, "evaluation": 1.0}})]
    )
    names = run_names(receipts([tmp_path / "results", tmp_path / "elsewhere"]))
    assert len(set(names)) == 6
    assert any(name.endswith("elsewhere") for name in names)


def test_the_sentence_describes_the_run():
    said = sentence(result("acl", "alf"))
    assert said.startswith(
        "acl pre-trained a ResNet-small on images of digits without labels for 30 epochs; then a linear"
    )
    assert said.endswith("200 test images were judged, clean and under PGD-20 in the l∞ ball of ε = 0.1.")


def test_png_and_pdf_figures_are_written(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        out = tmp_path / f"figure.{kind}"
        assert cli.run(["report", str(run), f"--{kind}", str(out)]) == 0
        assert out.read_bytes().startswith(magic)
    assert cli.run(["report", str(run), "--png", str(tmp_path / "figure.jpg")]) == 2
    assert "takes a file that ends in .png" in capsys.readouterr().err
