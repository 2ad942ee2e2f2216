"""The verbs, end to end; every mistake ends in one line and exit code 2."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unshaken
from processes import Forked, command, until
from unshaken import cli, commands, options
from unshaken.attacks.ball import L2
from unshaken.attacks.pgd import PGD
from unshaken.base.schedule import Constant, StepSchedule
from unshaken.commands.pretrain import PretrainOptions, remark
from unshaken.train.approximations import Approximations
from unshaken.train.optim import SGD

QUICK = ["--epochs", "1", "--batch-size", "32", "--data.limit", "64", "--method.attack.steps", "1"]
DATA = os.environ.get("UNSHAKEN_DATA")


def test_the_verbs_are_these():
    """A new verb is a decision: it is made here too."""
    ours = [
        "pretrain",
        "robustify",
        "plan",
        "finetune",
        "evaluate",
        "compare",
        "report",
        "board",
        "submit",
        "doctor",
        "checkup",
        "dial",
        "frontier",
        "coreset",
        "demo",
        "import",
        "export",
        "pack",
        "embed",
        "predict",
        "text-embeddings",
        "verify",
        "list",
        "cite",
        "completion",
    ]
    assert list(cli.VERBS) == ours
    assert {*commands.VERBS, "report"} == set(cli.VERBS)


def said(capsys) -> str:
    """What was said on standard error, if it was one line beside notes of what is done."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unshaken: ")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert cli.run(["pretrain", "acl/digits", *QUICK, "--out", str(out)]) == 0
    (run,) = out.iterdir()
    return run


@pytest.fixture(scope="module")
def tuned(pretrained) -> Path:
    args = ["finetune", str(pretrained), "--mode", "all", "--epochs", "2", "--data.limit", "80"]
    assert cli.run(args) == 0
    assert cli.run(["evaluate", str(pretrained), "--limit", "50", "--attack.steps", "2"]) == 0
    return pretrained


def test_a_run_leaves_its_recipe_log_encoder_and_end(pretrained):
    assert {f.name for f in pretrained.iterdir() if f.is_file()} >= {
        "recipe.json",
        "log.jsonl",
        "encoder.safetensors",
        "run.json",
    }
    recipe = json.loads((pretrained / "recipe.json").read_text())["recipe"]
    assert (recipe["epochs"], recipe["data"]["limit"], recipe["method"]["attack"]["steps"]) == (1, 64, 1)
    line = json.loads((pretrained / "log.jsonl").read_text().splitlines()[-1])
    assert {"step", "epoch", "lr", "loss", "adv", "clean", "images_per_s"} <= set(line)


@pytest.mark.parametrize("mode", ["slf", "alf", "aff"])
def test_results_are_counts_bits_and_the_papers_lines(tuned, mode):
    (run,) = tuned.glob(f"{mode}-digits-*")
    result = json.loads((run / "result-steps2-first50.json").read_text())
    assert not (run / "result.json").exists()  # a part does not pass for the whole
    assert (result["method"], result["mode"], result["standard"]["n"]) == ("acl", mode, 50)
    assert result["robust"]["correct"] <= result["standard"]["correct"]
    assert result["standard"]["percent"] == 2 * result["standard"]["correct"]
    assert result["evaluation"]["attack"]["ball"] == {"type": "Linf", "eps": 0.1}
    log = (run / "results" / "log-steps2-first50.txt").read_text()
    assert re.fullmatch(rf"{mode.upper()} standard acc: \d+\.\d\d\n{mode.upper()} PGD2 acc: \d+\.\d\d\n", log)


def test_modes_do_not_leak_into_each_other(tuned, pretrained):
    """ALF alone gives the bits that ALF among all three gave."""
    (among,) = tuned.glob("alf-digits-*")
    alone = tuned / "alone"
    args = ["finetune", str(pretrained), "--mode", "alf", "--epochs", "2", "--data.limit", "80", "--out", str(alone)]
    assert cli.run(args) == 0
    (run,) = alone.glob("alf-digits-*")
    digests = [json.loads((r / "run.json").read_text())["digest"] for r in (among, run)]
    assert digests[0] == digests[1]


def test_report_writes_markdown(tuned, tmp_path, capsys):
    assert cli.run(["report", str(tuned), "--out", str(tmp_path / "table.md")]) == 0
    table = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out == table
    assert "| acl | SLF | digits | 50 |" in table
    assert "PGD-2 l∞ 0.1" in table


def test_list_and_help(capsys):
    assert cli.run(["list"]) == 0
    assert "dynacl-air" in capsys.readouterr().out
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in cli.VERBS)
    with pytest.raises(SystemExit) as done:
        cli.run(["pretrain", "acl/digits", "--help"])
    assert done.value.code == 0
    assert "--method.attack.ball.eps" in capsys.readouterr().out


def test_help_is_quick():
    """Under half a second of a processor, the best of three on a machine that may be busy."""

    def seconds() -> float:
        begun = os.times()
        subprocess.run([sys.executable, "-m", "unshaken.cli", "--help"], check=True, capture_output=True)
        ended = os.times()
        return sum(getattr(ended, part) - getattr(begun, part) for part in ("children_user", "children_system"))

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["pretian"], "did you mean 'pretrain'"),
        (["pretrain"], "needs RECIPE"),
        (["pretrain", "acl/digit"], "did you mean 'digits'"),
        (["pretrain", "acl/digits", "--epoch", "3"], "did you mean --epochs"),
        (["pretrain", "acl/digits", "--epochs", "many"], "--epochs"),
        (["pretrain", "acl/digits", "--epochs", "0"], "--epochs is a whole number ≥ 1, not 0"),
        (["pretrain", "acl/digits", "--batch-size", "1"], "--batch-size is a whole number ≥ 2, not 1"),
        (["pretrain", "acl/digits", "--method.attack.ball.eps", "8"], "did you mean 8/255"),
        (["pretrain", "acl/digits", "--method.attack.ball.eps", "nan"], "not nan"),
        (["pretrain", "acl/digits", "--method.attack.ball.eps", "-1/255"], "eps is a number > 0, not -1/255"),
        (["pretrain", "acl/digits", "--method.tau", "1/0"], "neither a number nor a fraction"),
        (["pretrain", "acl/digits", "--data.limit", "1"], "too few"),
        (["pretrain", "acl/digits", "--optimizer", "Adam"], "--optimizer is one of SGD, AdamW, LARS"),
        (["pretrain", "acl/digits", "--lr", "Constant"], "needs --lr.value too"),
        (["pretrain", "acl/digits", "--backbone", "resnet50"], "did you mean --backbone.name"),
        (["pretrain", "acl/digits", "--method", "SimCLR"], "no option --method"),
        (["pretrain", "acl/digits", "--data", "nowhere"], "no image set 'nowhere'"),
        (["pretrain", "acl/digits", "--backbone.channels", "3"], "means and standard deviations"),
        (["pretrain", "acl/cifar10", "--data.root", "nowhere"], "--data.download"),
        (["pretrain", "acl/digits", "--seed", "1", "--seed=2"], "--seed is given 2 times"),
        (["pretrain", "acl/digits", "--name", "mine"], "no option --name"),
        (["pretrain", "acl/digits", "--split", "test"], "the test images are for the evaluation"),
        (["pretrain", "acl/digits", "--method.tau=-1"], "--method.tau is a number > 0, not -1"),
        (["pretrain", "acl/digits", "--lr.peak", "nan"], "--lr.peak is a number ≥ 0, not nan"),
        (
            ["pretrain", "acl/digits", "--method.attack.rel_step_size", "inf"],
            "rel-step-size is a number > 0, not inf",
        ),
        (["pretrain", "acl/digits", "--views.count", "3"], "takes 2 views of an image"),
        (["pretrain", "acl/digits", "--backbone.image-size", "32"], "such as acl/digits"),
        (["pretrain", "acl/cifar10", "--views.ratio", "0", "0"], "--views.ratio is a number > 0, not 0"),
        (["pretrain", "acl/digits", "--runtime.device", "mps"], "no mps device here"),
        (["pretrain", "acl/digits", "--stop-after", "-1"], "--stop-after is a number ≥ 0, not -1"),
        (["pretrain", "acl/digits", "--runtime.threads", "-1"], "--runtime.threads is a whole number ≥ 0, not -1"),
        (["finetune", "nowhere"], "there is no encoder in nowhere"),
        (["evaluate", "nowhere"], "there is no folder nowhere"),
        (["report", "nowhere"], "there is no nowhere"),
        (["report", "--mean"], "did you mean --means"),
        (["report"], "needs one or more"),
        (["frontier"], "needs RUNS or RECIPE"),
        (["frontier", "nowhere/digits"], "neither a file or folder of results nor a recipe, such as acl/digits"),
        (["frontier", "acl/digit"], "did you mean 'digits'"),
        (["frontier", "dynacl++/digits"], "that it starts from, dynacl/digits"),
        (["frontier", "acl/digits", "--fractions", "0.1", "1.5"], "--fractions is a number in (0, 1], not 1.5"),
        (["frontier", "acl/digits", "--fractions", "0.1", "0.1"], "given once"),
        (["frontier", "acl/digits", "--mode", "all"], "one figure each"),
        (["frontier", "acl/digits", "--seed", "2"], "--seeds 1 2 3"),
        (["frontier", "acl/digits", "--coreset.fraction", "0.3"], "--fractions 0.1 0.2"),
        (["frontier", "acl/digits", "--coreset", "None"], "name a selector"),
        (["frontier", "acl/digits", "--coreset", "Random"], "name a selector"),
        (["frontier", "acl/digits", "--epochs", "3"], "of which 20 are warm-up"),
        (["pretrain", "acl-rcs/digits", "--coreset.diversity", "1"], "set granularity to sample, or diversity to 0"),
        (["pretrain", "acl-rcs/digits", "--coreset.diversity", "-1"], "--coreset.diversity is a number ≥ 0, not -1"),
        (["pretrain", "acl-rcs/digits", "--coreset", "Ranked", "--coreset.by", "grad"], "gradient"),
        (["pretrain", "acl-rcs/digits", "--coreset", "KMeansMargin", "--coreset.clusters", "1"], "≥ 2, not 1"),
        (["coreset"], "needs one of these next: show"),
        (["coreset", "shwo", "runs"], "not 'shwo'"),
        (["coreset", "show"], "needs RUN next"),
        (["coreset", "show", "nowhere"], "nowhere is not a run"),
        (["finetune", "nowhere", "--protocol", "mine"], "--protocol is clean, leaked, or METHOD/SET"),
        (["pretrain", "advcl/digits", "--clusters", "1", "5"], "--clusters is a whole number ≥ 2, not 1"),
        (["list", "all"], "takes no arguments"),
        (["import", "nowhere.pt"], "there is no file nowhere.pt"),
        (["verify", "nowhere"], "nowhere"),
        (["export", "nowhere", "--to", "onnx", "--out", "x.onnx"], "nowhere"),
        (["cite", "nowhere"], "neither a run, nor a file, nor a method"),
    ],
)
def test_mistakes_are_one_line(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(args) == 2
    assert words in said(capsys)
    assert not list(tmp_path.rglob("checkpoint*"))


def test_autolora_is_a_mode(pretrained, tmp_path):
    args = ["finetune", str(pretrained), "--mode", "autolora", "--out", str(tmp_path)]
    quick = ["--epochs", "1", "--data.limit", "100", "--method.attack.steps", "1", "--validation.attack.steps", "1"]
    assert cli.run([*args, *quick]) == 0
    assert cli.run(["evaluate", str(tmp_path), "--limit", "10", "--attack.steps", "1"]) == 0
    (result,) = tmp_path.rglob("result-steps1-first10.json")
    assert json.loads(result.read_text())["mode"] == "autolora"


def test_a_part_is_exchanged_by_its_kind():
    """With the new kind's own defaults, and its fields as options in the same breath."""
    args = [
        "--optimizer",
        "SGD",
        "--optimizer.momentum",
        "1/2",
        "--lr",
        "Constant",
        "--lr.value",
        "3",
        "--method.attack.ball",
        "L2",
    ]
    chosen = options.parse(PretrainOptions(unshaken.recipe("acl/digits")), args, "test").recipe
    assert chosen.optimizer == SGD(momentum=0.5)
    assert chosen.lr == Constant(3.0)
    assert chosen.method.attack == PGD(L2(0.5), steps=5)


def test_savings_are_options_by_their_dotted_names(capsys):
    """And stairs that last longer than the run are remarked on."""
    default = PretrainOptions(unshaken.recipe("acl/digits"))
    stairs = [
        "StepSchedule",
        "--approximations.steps.start",
        "1/5",
        "--approximations.steps.stop",
        "6/5",
        "--approximations.steps.every",
    ]
    args = [
        "--approximations.steps",
        *stairs,
        "6",
        "--approximations.side.value",
        "3/4",
        "--approximations.replays",
        "2",
    ]
    assert options.parse(default, args, "test").recipe.approximations == Approximations(
        StepSchedule(1 / 5, 6 / 5, 6), 2, Constant(0.75)
    )
    remark(options.parse(default, ["--approximations.steps", *stairs, "30"], "test").recipe)
    assert "--approximations.steps is made for more than 30 epochs, but there are 30" in capsys.readouterr().err
    for words, wrong in (("1/2", "every is a whole number ≥ 1, not '1/2'"), ("0", "≥ 1, not 0")):
        with pytest.raises(ValueError, match=wrong):
            options.parse(default, ["--approximations.steps", *stairs, words], "test")
    with pytest.raises(ValueError, match=r"in \(0, 1\], not 3"):
        options.parse(default, ["--approximations.side.value", "3"], "test")


def test_a_part_that_may_be_left_out_is_left_out():
    default = PretrainOptions(unshaken.recipe("a-infonce/digits"))
    chosen = options.parse(default, ["--method.hn", "None", "--method.ip.alpha", "1/4"], "test").recipe
    assert (chosen.method.hn, chosen.method.ip.alpha) == (None, 0.25)
    chosen = options.parse(default, ["--method.ip", "None", "--method.adaptive", "None"], "test").recipe
    assert (chosen.method.ip, chosen.method.adaptive) == (None, None)
    for flag in ("--method.advcl", "--optimizer"):
        with pytest.raises(ValueError, match="is one of|no option"):
            options.parse(default, [flag, "None"], "test")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, capsys):
    args = ["pretrain", "simclr/digits", "--epochs", "3", "--data.limit", "64", "--batch-size", "32"]
    assert cli.run([*args, "--lr.peak", "1e38", "--lr.warmup", "0", "--out", str(tmp_path)]) == 2
    assert "no longer a finite number" in capsys.readouterr().err


def test_wrong_files_are_named(tuned, tmp_path, capsys):
    (run,) = tuned.glob("slf-digits-*")
    assert cli.run(["finetune", str(run / "classifier.safetensors"), "--mode", "slf"]) == 2
    assert "is a file of kind 'classifier'; a file of kind 'encoder' is needed" in said(capsys)
    broken = tmp_path / "encoder.safetensors"
    broken.write_bytes((tuned / "encoder.safetensors").read_bytes()[:1000])
    assert cli.run(["finetune", str(broken), "--mode", "slf"]) == 2
    assert "not a complete safetensors file" in said(capsys)
    assert cli.run(["finetune", str(tuned), "--mode", "full"]) == 2
    assert "there is no mode 'full'" in said(capsys)
    assert cli.run(["finetune", str(tuned), "--stop-after", "-1"]) == 2
    assert "--stop-after is a number ≥ 0, not -1" in said(capsys)


def test_options_of_one_mode_among_all(pretrained, tmp_path, capsys):
    """--method.beta is AFF's alone; what no mode has is refused before any mode begins."""
    args = ["finetune", str(pretrained), "--mode", "all", "--epochs", "1", "--data.limit", "40", "--out", str(tmp_path)]
    assert cli.run([*args, "--method.betta", "3"]) == 2
    assert "did you mean --method.beta" in said(capsys) or not list(tmp_path.iterdir())
    assert cli.run([*args, "--method.beta", "3"]) == 0
    betas = {json.loads(file.read_text())["recipe"]["method"].get("beta") for file in tmp_path.rglob("recipe.json")}
    assert betas == {None, 3.0}


def test_one_class_is_nothing_to_tell_apart(pretrained, tmp_path, capsys):
    jpegs(tmp_path / "one" / "cats", 8)
    run = ["finetune", str(pretrained), "--mode", "slf", "--data", str(tmp_path / "one")]
    assert cli.run([*run, "--data.root", str(tmp_path)]) == 2
    assert "channel" in said(capsys)
    flat = ["pretrain", "acl", "--data", str(tmp_path / "one"), *SMALL, "--data.root", str(tmp_path)]
    assert cli.run([*flat, "--out", str(tmp_path / "runs")]) == 0
    (encoder,) = (tmp_path / "runs").iterdir()
    assert cli.run(["finetune", str(encoder), "--mode", "slf"]) == 2
    assert "one class, 'cats'" in said(capsys)


def test_a_fine_tuning_run_is_no_encoder(tuned, capsys):
    (run,) = tuned.glob("slf-digits-*")
    assert cli.run(["finetune", str(run)]) == 2
    assert "it is a fine-tuning run" in said(capsys)


def jpegs(folder: Path, count: int, seed: int = 0) -> None:
    """Noise pictures of mixed sizes, some grey."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for k in range(count):
        height, width = rng.integers(20, 60, 2)
        shape = (height, width) if k % 5 == 0 else (height, width, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{k:03}.jpg")


SMALL = ["--backbone.name", "resnet-small", *QUICK]


def test_a_flat_folder_of_jpegs(tmp_path, capsys):
    """Pre-training needs no labels; fine-tuning says that it does, and takes them from elsewhere."""
    jpegs(tmp_path / "photos", 70)
    place = ["--data.root", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]
    assert cli.run(["pretrain", "acl", "--data", str(tmp_path / "photos"), *SMALL, *place]) == 0
    (run,) = (tmp_path / "runs").glob("acl-photos-*")
    capsys.readouterr()
    assert cli.run(["finetune", str(run), "--mode", "slf"]) == 2
    assert "has no labels" in said(capsys)
    jpegs(tmp_path / "sorted" / "cats", 20, seed=1)
    jpegs(tmp_path / "sorted" / "dogs", 20, seed=2)
    assert cli.run(["finetune", str(run), "--mode", "slf", "--data", str(tmp_path / "sorted"), "--epochs", "1"]) == 0
    assert cli.run(["evaluate", str(run), "--attack.steps", "2"]) == 0
    (result,) = run.rglob("result-steps2.json")
    found = json.loads(result.read_text())
    assert 0 < found["standard"]["n"] < 20
    assert found["seen"] == {"finetune": 0, "pretrain": 0}


def test_an_unreadable_image_is_named(tmp_path, capsys):
    jpegs(tmp_path / "photos", 70)
    (tmp_path / "photos" / "007.jpg").write_bytes(b"not an image")
    args = ["pretrain", "acl", "--data", str(tmp_path / "photos"), *SMALL]
    args += ["--data.root", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]
    assert cli.run(args) == 2
    assert "007.jpg" in said(capsys)
    assert cli.run([*args, "--data.unreadable", "skip"]) == 0
    assert "1 of 64 images cannot be read" in capsys.readouterr().err


@pytest.mark.extra
@pytest.mark.skipif(not DATA, reason="UNSHAKEN_DATA names no folder of Parquet sets")
def test_real_cifar10_through_a_resnet18(tmp_path):
    """Parquet in, result out; a handful of images, for a ResNet-18 is slow on a CPU."""
    place = ["--data.root", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]
    args = ["pretrain", "acl", "--data", f"{DATA}/cifar10", "--data.limit", "8", "--batch-size", "8", "--epochs", "1"]
    assert cli.run([*args, "--method.attack.steps", "1", *place]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert cli.run(["finetune", str(run), "--mode", "slf", "--epochs", "1"]) == 0
    assert cli.run(["evaluate", str(run), "--limit", "4", "--attack.steps", "2"]) == 0
    (result,) = run.rglob("result-steps2-first4.json")
    found = json.loads(result.read_text())
    assert found["data"]["n"] == 10_000
    assert found["standard"]["n"] == 4
    assert found["evaluation"]["attack"]["ball"]["eps"] == 8 / 255


def test_time_that_is_over_has_an_exit_code_of_its_own(tmp_path, capsys):
    """EX_TEMPFAIL, "try again later": neither that of success nor that of a signal."""
    args = ["pretrain", "acl/digits", *QUICK, "--out", str(tmp_path)]
    assert cli.run([*args, "--stop-after", "1e-6"]) == 75
    assert "the same command resumes from there" in capsys.readouterr().err
    assert cli.run(args) == 0


@pytest.mark.slow
def test_killed_from_outside_and_started_again(tmp_path):
    """The real command in a real process: kill -9, then SIGTERM, then to the end; the digest of a run left alone."""
    args = ["pretrain", "acl/digits", "--epochs", "6", "--batch-size", "32", "--data.limit", "64"]
    args += ["--method.attack.steps", "1", "--save-every", "0"]

    def start(out: str) -> Forked:
        return command(*args, "--out", str(tmp_path / out))

    alone = start("alone")
    broken = start("broken")
    wait_for_checkpoint(tmp_path / "broken", broken)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    assert broken.returncode == -signal.SIGKILL
    again = start("broken")
    wait_for_checkpoint(tmp_path / "broken", again)
    again.send_signal(signal.SIGTERM)
    assert b"the same command resumes from there" in again.communicate()[1]
    assert again.returncode == 143
    last = start("broken")
    expected, found = alone.communicate()[0], last.communicate()[0]
    assert digest(found) == digest(expected)


def wait_for_checkpoint(root: Path, process: Forked) -> None:
    """Until a checkpoint is written that was not there before."""
    times = lambda: [file.stat().st_mtime_ns for file in root.rglob("checkpoint.safetensors")]  # noqa: E731
    before = times()
    until(lambda: times() != before, process)


def digest(output: bytes) -> str:
    return re.search(r"digest ([0-9a-f]{32})", io.BytesIO(output).read().decode()).group(1)
