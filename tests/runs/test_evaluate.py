"""Evaluations of runs and modules: files, resuming, shards, extensions, and the papers' log of three modes."""

import copy
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fitted import least_squares, write_run
from torch import nn

import unshaken
from processes import Forked, command, until
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json
from unshaken.base.shard import Shard
from unshaken.data.source import DataSource
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.result import log_of_modes, log_of_result
from unshaken.report.grouping import results_in
from unshaken.report.table import rows
from unshaken.runs.evaluate import evaluate

CHEAP = Evaluation(PGD(Linf(0.02), steps=2), batch_size=100)
CORRUPTED = replace(CHEAP, corruptions=("contrast", "gaussian_noise"), severities=(1, 5))


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "encoder" / "slf-digits-1", least_squares(1))


EPS = "-eps0.02-steps2"
"""What the names of CHEAP's results say: in which it differs from the evaluation that goes with digits."""


def result(run: Path, name: str = f"result{EPS}.json") -> dict:
    return read_json(run / name)


def bare(result: dict) -> dict:
    """Without what the clock says."""
    if isinstance(result, dict):
        return {name: bare(value) for name, value in result.items() if name != "seconds"}
    return result


def test_a_result_has_counts_bits_and_what_it_rests_on(run):
    found = evaluate(run, evaluation=CORRUPTED, workspace=unshaken.Workspace(quiet=True))
    assert found == result(run)
    assert found["standard"]["correct"] > 300
    assert found["robust"]["correct"] < found["standard"]["correct"]
    assert set(found["corruptions"]) == {"contrast", "gaussian_noise"}
    assert set(found["corruptions"]["contrast"]) == {"1", "5"}
    assert "corruption_accuracy" not in found  # which is of all fifteen at all five
    assert found["corrupted"] == {"constants": "cifar", "substitutes": {}}
    assert found["seconds"]["evaluation"] == pytest.approx(
        sum(found[score]["seconds"] for score in ("standard", "robust"))
        + sum(each["seconds"] for by in found["corruptions"].values() for each in by.values()),
        abs=0.05,
    )
    assert {"unshaken", "torch", "device", "precision"} <= set(found["world"])
    assert found["checks"] == []


def test_less_does_not_take_the_place_of_more(run):
    """The same evaluation asked for less shows what is known; another evaluation has a result of its own."""
    more = evaluate(run, evaluation=CORRUPTED, workspace=unshaken.Workspace(quiet=True))
    assert bare(evaluate(run, evaluation=CHEAP, workspace=unshaken.Workspace(quiet=True))) == bare(more)
    assert bare(evaluate(run, evaluation=replace(CHEAP, until=50.0), workspace=unshaken.Workspace(quiet=True))) == bare(
        more
    )
    other = evaluate(run, evaluation=replace(CHEAP, seed=2), workspace=unshaken.Workspace(quiet=True))
    assert "corruptions" not in other
    assert other["evaluation"]["seed"] == 2


def test_a_part_does_not_take_the_place_of_the_whole(run):
    whole = evaluate(run, evaluation=CHEAP, workspace=unshaken.Workspace(quiet=True))
    part = evaluate(
        run, evaluation=replace(CHEAP, until=30.0, seed=1, batch_size=20), workspace=unshaken.Workspace(quiet=True)
    )
    assert result(run) == whole
    assert part == result(run, f"result{EPS}-until30.json")
    assert part["robust"]["n"] < part["robust"]["of"] == 445
    assert rows([part])[0][3] == f"{part['robust']['n']} of 445"
    assert (run / "results" / f"log{EPS}-until30.txt").exists()
    low, high = part["robust"]["final95"]
    assert high - low <= 30
    narrow = evaluate(
        run, evaluation=replace(CHEAP, until=0.0, batch_size=20), workspace=unshaken.Workspace(quiet=True)
    )
    assert narrow["evaluation"]["until"] is None  # all were judged, so this is the whole
    assert bare(narrow) == bare(result(run))


@pytest.mark.extra
def test_shards_leave_the_result_of_one_process(run, tmp_path, capsys):
    alone = bare(evaluate(run, evaluation=CORRUPTED, workspace=unshaken.Workspace(quiet=True)))
    other = write_run(tmp_path / "shared", least_squares(1))
    assert evaluate(other, evaluation=CORRUPTED, shard=Shard(2, 2), workspace=unshaken.Workspace(quiet=True)) is None
    assert "shard 2/2 is done; 200 of 445 images are judged so far" in capsys.readouterr().err
    assert not (other / f"result{EPS}.json").exists()
    assert (
        bare(evaluate(other, evaluation=CORRUPTED, shard=Shard(1, 2), workspace=unshaken.Workspace(quiet=True)))
        == alone
    )
    assert bare(result(other)) == alone
    with pytest.raises(ValueError, match="leave --shard out"):
        evaluate(other, evaluation=replace(CHEAP, until=1.0), shard=Shard(1, 2))


@pytest.mark.slow
def test_killed_from_outside_and_shared(run, tmp_path):
    """kill -9 of the real command in its middle; then two processes at once; the result of a run left alone."""
    options = ["--attack.steps", "20", "--batch-size", "40", "--runtime.threads", "1"]

    def start(folder: Path, *more: str) -> Forked:
        return command("evaluate", str(folder), *options, *more)

    other = write_run(tmp_path / "shared", least_squares(1))
    first = start(other)
    until(lambda: sum(f.read_text().count("\n") for f in other.glob("verdicts-*.jsonl")) >= 5, first)
    (lines,) = other.glob("verdicts-*.jsonl")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    known = lines.read_text().count("\n")
    assert 5 <= known < 25
    rest = [start(other, "--shard", "1/2"), start(other, "--shard", "2/2"), start(run)]
    assert [process.communicate() and process.returncode for process in rest] == [0, 0, 0]
    assert bare(result(other, "result.json")) == bare(result(run, "result.json"))
    again = sum(file.read_text().count("\n") - 1 for file in other.glob("verdicts-*-*.jsonl"))
    assert again + known - 1 == 24  # twelve blocks, two parts, none twice


class Pixels(nn.Module):
    """Logits in pixels: the class is the brightest of the first ten."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x.flatten(1)[:, :10]


def test_any_module_on_any_images(tmp_path):
    """Against its closed form: the brightest pixel is the label's by more than 2 ε. It is left as it was."""
    pixels = torch.randint(90, 166, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    label = pixels.flatten(1)[:, :10].long().argmax(1)
    images = unshaken.Images(pixels, label, tuple("abcdefghij"), "noise", "test")
    top = images.floats().flatten(1)[:, :10].topk(2).values
    expected = top[:, 0] - top[:, 1] > 2 * 0.02 + 1e-6
    net = Pixels().train()
    before = copy.deepcopy(net.state_dict())
    evaluation = Evaluation(PGD(Linf(0.02), steps=20), batch_size=16)
    found = unshaken.evaluate(
        net, images, evaluation, name="brightest", workspace=unshaken.Workspace(root=tmp_path / "out", quiet=True)
    )
    assert found["robust"]["correct"] == int(expected.sum())
    assert 0 < found["robust"]["correct"] < found["standard"]["correct"] <= 50
    assert (found["method"], found["mode"]) == ("brightest", "given")
    assert net.training
    assert net.scale.requires_grad
    assert net.scale.grad is None
    assert net.state_dict() == before
    assert rows(results_in([tmp_path]))[0][:3] == ("brightest", "GIVEN", "noise")
    nowhere = unshaken.evaluate(net, images, evaluation, workspace=unshaken.Workspace(quiet=True))
    assert nowhere["robust"] | {"seconds": 0} == found["robust"] | {"seconds": 0}


def test_verdicts_of_other_weights_are_not_taken(tmp_path):
    """In the same folder: the network was trained on, say."""
    images = DataSource("digits").load("test")
    first, second = (least_squares(seed) for seed in (1, 2))
    a = evaluate(first, images, CHEAP, workspace=unshaken.Workspace(root=tmp_path, quiet=True))
    b = evaluate(second, images, CHEAP, workspace=unshaken.Workspace(root=tmp_path, quiet=True))
    assert a["standard"]["bits"] != b["standard"]["bits"]
    assert (
        b["standard"]["bits"]
        == evaluate(second, images, CHEAP, workspace=unshaken.Workspace(quiet=True))["standard"]["bits"]
    )


def test_what_a_module_lacks_is_said():
    images = DataSource("digits").load("test")
    with pytest.raises(ValueError, match=r"has the shape \(7,\), and digits has 10 classes"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), images, CHEAP)
    with pytest.raises(ValueError, match="has no images of its own"):
        evaluate(nn.Flatten())


def test_low_precision_looks_and_float32_judges(run):
    few = replace(CHEAP, limit=100)
    exact = evaluate(run, evaluation=few, workspace=unshaken.Workspace(quiet=True))
    found = evaluate(
        run, evaluation=few, workspace=unshaken.Workspace(quiet=True, runtime=unshaken.Runtime(precision="bf16"))
    )
    assert (found["world"]["precision"], found["world"]["search"]) == ("float32", "bf16")
    assert found["standard"]["bits"] == exact["standard"]["bits"]
    assert abs(found["robust"]["correct"] - exact["robust"]["correct"]) <= 2
    images = DataSource("digits").load("test")
    for precision, least, most in (("bf16", 1e-4, 0.1), ("float32", 0, 1e-5)):  # eight bits; and folding rounds
        with Classifier.of_run(run).prepared(images, unshaken.Runtime(precision=precision)) as seat, torch.no_grad():
            a, b = (net.eval()(images.floats(slice(0, 20)), "adv") for net in (seat.net, seat.search))
        assert least < float((a - b).abs().max() / a.abs().max()) < most
    assert found["notes"] != exact["notes"]  # verdicts of the two are not mixed


@pytest.mark.extra
def test_the_papers_log_of_three_modes_in_their_parent(run):
    found = [evaluate(run, evaluation=CHEAP, workspace=unshaken.Workspace(quiet=True))]
    assert (run / "results" / f"log{EPS}.txt").read_text() == log_of_result(found[0])
    for seed, mode in ((2, "AFF"), (3, "ALF")):
        other = write_run(run.parent / f"{mode.lower()}-digits-1", least_squares(seed), mode)
        assert not (run.parent / "results").exists()
        found.append(evaluate(other, evaluation=CHEAP, workspace=unshaken.Workspace(quiet=True)))
    args = ["--attack.steps", "2", "--batch-size", "100", "--attack.ball.eps", "0.02"]
    assert cli.run(["evaluate", str(run), *args]) == 0
    assert not (run.parent / "results").exists()  # one mode has no means
    assert cli.run(["evaluate", str(run.parent), *args]) == 0
    log = (run.parent / "results" / f"log{EPS}.txt").read_text()
    assert log == log_of_modes("encoder/encoder.safetensors", [found[0], found[2], found[1]])
    assert cli.run(["evaluate", str(run.parent), *args, "--limit", "50"]) == 0
    assert (run.parent / "results" / f"log{EPS}-first50.txt").exists()
    assert (run.parent / "results" / f"log{EPS}.txt").read_text() == log


def test_what_is_doubtful_is_said_and_kept(run, capsys):
    """Probabilities in the place of logits, which saturate."""

    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = least_squares(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (100 * self.net(x, "adv")).softmax(-1)

    found = evaluate(Sure(), DataSource("digits").load("test"), CHEAP)
    assert "logits" in [finding["check"] for finding in found["checks"]]
    assert "doubtful (logits" in capsys.readouterr().err


def test_a_network_of_a_package_by_its_name(tmp_path, monkeypatch, capsys):
    """On a user's images; the weights are initial ones here, for nothing is downloaded in tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        Classifier, "of_name", lambda name: (Classifier.of_module(Pixels(), name, Path("runs/timm-pixels")), None)
    )
    assert cli.run(["evaluate", "timm/pixels", "--attack.steps", "1"]) == 2
    assert "name a set with its classes by --data" in capsys.readouterr().err
    assert cli.run(["evaluate", "timm/pixels", "--data", "digits", "--attack.steps", "1", "--limit", "60"]) == 0
    assert "| timm/pixels | GIVEN | digits | 60 |" in capsys.readouterr().out
    found = result(tmp_path / "runs" / "timm-pixels" / "digits", "result-steps1-first60.json")
    assert found["evaluation"]["attack"]["ball"] == {"type": "Linf", "eps": 0.1}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--shard", "3/2"], "a shard is one of 1/2 to 2/2"),
        (["--shard", "2"], "a shard is written 1/2"),
        (["--shard", "1/2", "--until", "1"], "leave --shard out"),
        (["--corruptions", "fogs"], "did you mean fog"),
        (["--autoattack", "fast"], "--autoattack"),
        (["--until", "101"], "--until is a number in [0, 100], not 101"),
        (["--published", "nowhere", "--corruptions", "fog"], "nowhere has no fog.npy"),
    ],
)
def test_mistakes_are_one_line(args, words, run, capsys):
    assert cli.run(["evaluate", str(run), *args, "--limit", "20", "--attack.steps", "1"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unshaken: ")]
    assert len(lines) == 1
    assert words in lines[0]
