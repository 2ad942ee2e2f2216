"""What people type: flags of other programs are understood or answered, and no suggestion misleads."""

import io
import re
import sys

import pytest

import unshaken
from unshaken.base.schedule import StepSchedule
from unshaken.commands.evaluate import EvaluateOptions
from unshaken.commands.finetune import FinetuneOptions
from unshaken.commands.pretrain import PretrainOptions
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.options import flags, parse
from unshaken.options.aliases import ALIASES, ANSWERS, announce, suggestion
from unshaken.recipes.finetune import Finetune
from unshaken.train.averaging import EMA
from unshaken.train.best_weights import Best

PRETRAIN = PretrainOptions(unshaken.recipe("acl/digits"))
FINETUNE = FinetuneOptions(Finetune())
EVALUATE = EvaluateOptions(Evaluation(), DataSource("digits"))


@pytest.fixture(autouse=True)
def anew():
    announce.cache_clear()


@pytest.mark.parametrize(
    ("typed", "value", "option"),
    [
        ("--lr", "0.5", "--lr.peak"),
        ("--lr", "1/2", "--lr.peak"),
        ("--learning-rate", "0.5", "--lr.peak"),
        ("--learning_rate", "0.5", "--lr.peak"),
        ("--eps", "4/255", "--method.attack.ball.eps"),
        ("--epsilon", "4/255", "--method.attack.ball.eps"),
        ("--batch-size", "64", "--batch-size"),
        ("--batch_size", "64", "--batch-size"),
        ("--image-size", "8", "--backbone.image-size"),
        ("--weight-decay", "0.1", "--optimizer.weight-decay"),
        ("--momentum", "0.5", "--optimizer.momentum"),
        ("--temperature", "0.2", "--method.tau"),
        ("--device", "cpu", "--runtime.device"),
        ("--output-dir", "x", "--out"),
        ("--num-epochs", "3", "--epochs"),
        ("--save_every", "3", "--save-every"),
    ],
)
def test_flags_of_other_programs_are_understood_and_that_is_said(typed, value, option, capsys):
    assert parse(PRETRAIN, [typed, value], "test") == parse(PRETRAIN, [option, value], "test")
    said = capsys.readouterr().err
    assert said == ("" if typed.replace("_", "-") == option else f"note: {typed} is taken for {option}\n")


def test_an_alias_is_what_the_verb_has():
    assert parse(EVALUATE, ["--eps", "1/255"], "test").evaluation.attack.ball.eps == 1 / 255
    assert parse(FINETUNE, ["--lr", "0.3"], "test").recipe.lr.peak == 0.3


def test_an_alias_sets_every_option_that_it_means(capsys):
    """A coreset is selected with the ε that is trained against."""
    coreset = PretrainOptions(unshaken.recipe("acl-rcs/digits"))
    found = parse(coreset, ["--eps", "1/255"], "test").recipe
    assert found.method.attack.ball.eps == found.coreset.attack.ball.eps == 1 / 255
    said = capsys.readouterr().err
    assert said == "note: --eps is taken for --method.attack.ball.eps and --coreset.attack.ball.eps\n"


def test_an_alias_and_its_option_are_given_once():
    with pytest.raises(ValueError, match="--epochs is given 2 times"):
        parse(PRETRAIN, ["--epochs", "1", "--num-epochs", "2"], "test")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--gpus", "--runtime.device cuda"),
        ("--cfg", "did you mean --config, a file of options?"),
        ("--resume", "the same command resumes"),
        ("--num-workers", "no workers"),
        ("--fp16", "--runtime.precision bf16"),
        ("--epoch", "did you mean --epochs?"),
        ("--backbone", "did you mean --backbone.name?"),
        ("--crop", "did you mean --views.crop?"),
        ("--method.ball.eps", "did you mean --method.attack.ball.eps?"),
        ("--optimiser.momentum", "did you mean --optimizer.momentum?"),
    ],
)
def test_others_are_answered(typed, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(PRETRAIN, [typed, "1"], "test")


@pytest.mark.parametrize("typed", ["--xyz", "--foo", "--slurm", "--port", "--wandb", "--project", "--mixup", "--ema-x"])
def test_what_nothing_is_like_is_not_guessed(typed):
    with pytest.raises(ValueError, match=re.escape(f"there is no option {typed} (`test --help` shows them all)")):
        parse(PRETRAIN, [typed, "1"], "test")


@pytest.mark.parametrize("default", [PRETRAIN, FINETUNE, EVALUATE], ids=["pretrain", "finetune", "evaluate"])
def test_no_answer_names_an_option_that_the_verb_lacks(default):
    known = flags(default)
    for name in (*ANSWERS, *ALIASES, "epoch", "batchsize", "lrr"):
        for named in re.findall(r"--[a-z][a-z.-]*[a-z]", suggestion(f"--{name}", known)):
            everywhere = named in ("--config", "--quiet")
            assert everywhere or named in known or any(each.startswith(f"{named}.") for each in known)


@pytest.mark.parametrize("name", ALIASES)
def test_every_alias_stands_for_something(name):
    everything = [*flags(PRETRAIN), *flags(FINETUNE), *flags(EVALUATE), "--normalisation", "--ball.eps"]
    meant = [each for each in ALIASES[name] if not each.startswith("*")]
    assert not meant or any(f"--{each}" in everything for each in meant)
    assert f"--{name}" not in flags(PRETRAIN)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--epochs", "1.5"], "--epochs is a whole number ≥ 1, not '1.5'"),
        (["--epochs"], "--epochs takes one value, not none"),
        (["--epochs", "1", "2"], "--epochs takes one value, not 2: 1 2"),
        (["--head.out", "x"], "--head.out is a whole number ≥ 1, not 'x' (or None)"),
        (["--head.out", "-1"], "--head.out is a whole number ≥ 1, not -1 (or None)"),
        (["--backbone.std", "0"], "--backbone.std is a number > 0, not 0"),
        (["--backbone.std", "x"], "'x' is neither a number nor a fraction"),
        (["--runtime.device", "cuda2"], "one of auto, cpu, cuda, mps, not 'cuda2'; did you mean cuda?"),
        (["--data.download", "yes"], "--data.download is written without a value"),
        (["--data.no-download", "yes"], "is written without a value"),
        (["stray"], "'stray' is no option"),
        (["-x"], "'-x' is no option"),
        (["--optimizer", "SGD", "--optimizer.momentum", "2"], "--optimizer.momentum is a number in [0, 1), not 2"),
        (["--optimizer", "SGD", "--optimizer.weight-decay", "-1"], "--optimizer.weight-decay is a number ≥ 0, not -1"),
        (["--lr", "Constant", "--lr.value", "x"], "--lr.value is a number ≥ 0"),
        (["--coreset.budget", "0.2"], "test has none"),
    ],
)
def test_words_are_ours(args, words):
    """No class, no field's inner path and nothing of Python's own words; the flag as it is typed."""
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        parse(PRETRAIN, args, "test")
    assert not re.search(
        r"invalid literal|NoneType|typing|recipe\.|<class|Pretraining|\[INT|Could not", str(error.value)
    )


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_tyro_s_frame_is_taken_off_in_any_encoding(encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(ValueError, match=r"^--method.attack.ball: an l∞ eps of 8 .* 8/255\? \(`test --help`"):
        parse(PRETRAIN, ["--method.attack.ball.eps", "8"], "test")


def test_fields_that_go_together_alone_are_given_together():
    """Neither of the two alone would be in the other's range."""
    words = ["--approximations.steps", "StepSchedule", "--approximations.steps.start", "1/2"]
    words += ["--approximations.steps.stop", "1", "--approximations.steps.every", "3"]
    found = parse(PRETRAIN, [*words, "--method.attack.ball.eps", "1/9"], "test").recipe
    assert found.approximations.steps == StepSchedule(0.5, 1, 3)
    assert found.method.attack.ball.eps == 1 / 9
    assert parse(PRETRAIN, [], "test") == PRETRAIN


def test_a_mistake_of_several_fields_together_is_by_the_part_s_flag():
    with pytest.raises(ValueError, match=r"^--attack.ball: an l∞ eps of 8"):
        parse(EVALUATE, ["--attack.ball.eps", "8"], "test")
    with pytest.raises(ValueError, match=r"^the test images are for the evaluation"):
        parse(PRETRAIN, ["--split", "test"], "test")


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["--averaging", "EMA", "--averaging.memory", "0.2"], {"averaging": EMA(memory=0.2)}),
        (["--keep", "Best", "--keep.every", "5", "--holdout", "10"], {"keep": Best(every=5), "holdout": 10}),
        (["--averaging", "None"], {"averaging": None}),
    ],
)
def test_a_part_that_a_value_lacks_is_added_by_its_name(typed, found):
    value = parse(Finetune(), typed, "unshaken finetune RUN")
    assert {name: getattr(value, name) for name in found} == found
