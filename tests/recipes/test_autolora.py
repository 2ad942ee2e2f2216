"""The AutoLoRa recipe: its choices are made on images kept aside, and a run that is stopped anywhere ends the same."""

import copy
import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.evaluation.judge import judge
from unshaken.evaluation.protocol import Evaluation
from unshaken.methods.autolora import AutoLoRa, AutoRate
from unshaken.methods.base import Step
from unshaken.nets.checkpoint import load_classifier, load_encoder, read_tensors
from unshaken.nets.lora import LowRank, branch, without_lora
from unshaken.recipes.autolora import AutoFinetune
from unshaken.runs import autolora as module
from unshaken.runs.autolora import accuracy, first_network, quarters, training_and_validation
from unshaken.runs.encoder import PretrainedEncoder
from unshaken.train.batches import BatchStream, Position
from unshaken.train.image_sets import load_labelled
from unshaken.train.run_dir import Run
from unshaken.train.signals import Interrupted
from variants import variants

TINY = unshaken.DataSource("digits", limit=100)
RATE = AutoRate(start=0.2, rho=2.0, at=(0, 1, 2, 3), of=4)
"""Halved at each of its checkpoints: no rise is often enough."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two routes: a few steps of ACL."""
    recipe = unshaken.recipe("acl/digits")
    method = replace(recipe.method, attack=PGD(Linf(0.1), steps=1))
    short = replace(recipe, method=method, data=TINY, epochs=1, batch_size=64)
    return unshaken.pretrain(short, unshaken.Workspace(tmp_path_factory.mktemp("encoder"), quiet=True))


@pytest.fixture(scope="module")
def recipe(encoder: Path) -> AutoFinetune:
    """Four epochs of five batches; the rate falls, and the best weights come back, after the second and the third."""
    given = unshaken.finetune_recipe(encoder, "autolora")
    return replace(
        given,
        method=replace(given.method, attack=replace(given.method.attack, steps=1), rank=2),
        lr=RATE,
        epochs=4,
        batch_size=16,
        aside=5,
        validation=replace(given.validation, attack=PGD(Linf(0.1), steps=1)),
    )


def finish(recipe: AutoFinetune, encoder: Path, root: Path) -> dict:
    run = unshaken.finetune(encoder, recipe, unshaken.Workspace(root, save_every=0, quiet=True))
    return json.loads((run / "run.json").read_text())


def lines(root: Path) -> list[dict]:
    """The log, but for speeds, and for the checksums of lines with speeds in them."""
    (file,) = root.rglob("log.jsonl")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("images_per_s", "checksum")} for line in found]


@pytest.fixture(scope="module")
def unbroken(recipe, encoder, tmp_path_factory) -> tuple[dict, list[dict]]:
    root = tmp_path_factory.mktemp("unbroken")
    return finish(recipe, encoder, root), lines(root)


def in_child(work) -> int:
    """Do the work in a forked process; returns the signal that ended it, 0 if none did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of threads; the child uses none of them
        child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_end_to_end(recipe, encoder, tmp_path):
    """A run leaves a plain classifier, its history and its log; evaluating it gives a result of mode "autolora"."""
    run = unshaken.finetune(encoder, recipe, unshaken.Workspace(tmp_path, quiet=True))
    net, about = load_classifier(run / "classifier.safetensors")
    _, backbone, _ = load_encoder(encoder / "encoder.safetensors")
    assert set(net.encoder.state_dict()) == set(backbone.build().state_dict())
    assert {path.name for path in run.iterdir()} >= {"recipe.json", "run.json", "log.jsonl", "history.json"}
    assert not list(run.glob("best*")) + list(run.glob("checkpoint*"))
    values = json.loads((run / "history.json").read_text())["validation"]
    noted = [line for line in lines(run) if "validation" in line]
    assert [line["validation"] for line in noted] == values
    assert [line["epoch"] for line in noted] == [1, 2, 3, 4]
    steps = [line for line in lines(run) if "loss" in line]
    assert {"loss", "natural", "robust", "divergence", "l1", "l2", "lr"} <= set(steps[0])
    assert [line["lr"] for line in noted] == [RATE(values[: k + 1], 4)[0] for k in range(4)]
    assert all(line["lr"] == noted[int(line["step"] // 5) - 1]["lr"] for line in steps if line["step"] >= 5)
    result = unshaken.evaluate(
        run, evaluation=Evaluation(PGD(Linf(0.1), steps=1), limit=20), workspace=unshaken.Workspace(quiet=True)
    )
    assert (result["mode"], result["method"]) == ("autolora", "acl")
    aside = training_and_validation(recipe, backbone)[1]
    assert about["finetune"]["data"]["validation"]["n"] == len(aside)
    judged = judge(recipe.validation, net, aside)["pgd"]
    assert judged.correct / len(judged) == max(values)  # what is kept is the best


def test_nothing_is_learned_from_what_is_kept_aside(recipe, encoder):
    """Neither a test image nor one that was held for choices between recipes is trained on or validated on."""
    backbone = PretrainedEncoder.read(encoder / "encoder.safetensors").backbone

    def rows(images) -> set[bytes]:
        return {pixels.numpy().tobytes() for pixels in images.pixels}

    whole = recipe.data.load("train")
    held = replace(recipe, holdout=4)
    trained, aside = training_and_validation(held, backbone)
    kept = load_labelled(recipe.data, backbone, 4, held_out=True)
    assert len(trained) + len(aside) + len(kept) == len(whole)
    assert rows(trained) | rows(aside) | rows(kept) == rows(whole)
    assert not rows(aside) & (rows(trained) | rows(kept))
    assert not rows(trained) & rows(kept)
    assert (aside.split, trained.split) == ("validation", "train")
    assert aside.label.bincount().max() - aside.label.bincount().min() <= 1


def test_the_same_images_are_held_from_all_recipes(recipe, encoder, tmp_path):
    run = unshaken.finetune(encoder, replace(recipe, holdout=4, epochs=1), unshaken.Workspace(tmp_path, quiet=True))
    result = unshaken.evaluate(
        run, evaluation=Evaluation(PGD(Linf(0.1), steps=1)), held_out=True, workspace=unshaken.Workspace(quiet=True)
    )
    expected = load_labelled(
        recipe.data, PretrainedEncoder.read(encoder / "encoder.safetensors").backbone, 4, held_out=True
    )
    assert result["data"]["digest"] == expected.digest


@pytest.mark.parametrize(
    ("batches", "begins"), [(1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (4, (0, 1, 2, 3)), (391, (0, 97, 195, 293))]
)
def test_quarters(batches, begins):
    assert quarters(batches) == begins


def test_the_accuracy_is_of_the_natural_branch(recipe, encoder):
    """On images augmented anew at each place, in eval mode; nothing is left changed."""
    given = PretrainedEncoder.read(encoder / "encoder.safetensors")
    images, _ = training_and_validation(recipe, given.backbone)
    net = first_network(recipe, given, 10, Key(0))
    torch.nn.init.normal_(net.head.weight, generator=Key("head").on("cpu"))
    for layer in net.modules():
        if isinstance(layer, LowRank):
            torch.nn.init.normal_(layer.B, 0, 0.05, generator=Key("B").on("cpu"))
    Step(recipe.method, net)
    feed = BatchStream(images, recipe.views, lambda clock: 1.0, 50, 1, Key(3), images.label)
    before = copy.deepcopy(net.state_dict())
    found = [accuracy(recipe.method, net, feed, Position(0, 0, step)) for step in range(4)]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert len(set(found)) > 1
    right = 0
    with branch(net.encoder), torch.no_grad():
        net.eval()
        for at in range(0, len(images), 50):
            (x,) = feed.views(images.floats(slice(at, at + 50)), 1.0, Key(3) / "accuracy" / 2 / at)
            right += sum(
                a == b
                for a, b in zip(net(x, "adv").argmax(1).tolist(), images.label[at : at + 50].tolist(), strict=True)
            )
    assert found[2] == right / len(images)


def test_it_is_measured_at_each_quarter(recipe, encoder, tmp_path, monkeypatch):
    """And the weights of the loss follow it from there."""
    places, values = [], iter([k / 100 for k in range(100)])

    def recorded_accuracy(method, net, feed, position) -> float:
        places.append((position.epoch, position.batch))
        return next(values)

    monkeypatch.setattr(module, "accuracy", recorded_accuracy)
    unshaken.finetune(encoder, recipe, unshaken.Workspace(tmp_path, quiet=True))
    assert places == [(epoch, batch) for epoch in range(4) for batch in (0, 1, 2, 3)]
    ends = [line for line in lines(tmp_path) if "loss" in line and line["step"] % 5 == 4]
    for k, line in enumerate(ends):
        assert line["l1"] == pytest.approx(1 - (4 * k + 3) / 100)
        assert line["l2"] == pytest.approx(6 * (4 * k + 3) / 100)


def test_an_epoch_of_one_batch(recipe, encoder, tmp_path):
    """The released code divides by zero where there are fewer than four."""
    run = unshaken.finetune(
        encoder, replace(recipe, batch_size=500, epochs=2), unshaken.Workspace(tmp_path, quiet=True)
    )
    assert len(json.loads((run / "history.json").read_text())["validation"]) == 2


def test_the_best_weights_come_back(recipe, encoder, tmp_path, monkeypatch):
    """After a halving the next epoch begins with those of the best one, and momentum stays."""
    accuracies = iter([0.2, 0.9, 0.9, 0.3])  # of two that are equal the first is kept
    monkeypatch.setattr(module, "robust_accuracy", lambda recipe, net, aside: next(accuracies))
    starts, ends = {}, {}
    go = module.Loop.go

    def watched(training, lr, until=None):
        if training.position.batch == 0:
            starts[training.position.epoch] = (copy.deepcopy(training.step.net.encoder.state_dict()), lr.value)
        go(training, lr, until)
        if training.position.batch == 0:
            ends[training.position.epoch] = copy.deepcopy(training.step.net.encoder.state_dict())

    monkeypatch.setattr(module.Loop, "go", watched)
    run = unshaken.finetune(encoder, recipe, unshaken.Workspace(tmp_path, quiet=True))

    def same(a: dict, b: dict) -> bool:
        return all(torch.equal(a[name], b[name]) for name in a)

    assert [lr for _, lr in starts.values()] == [0.2, 0.2, 0.1, 0.05]
    assert same(starts[1][0], ends[1])
    assert same(starts[2][0], ends[2])
    assert same(starts[3][0], ends[2])
    assert not same(starts[3][0], ends[3])
    kept = load_classifier(run / "classifier.safetensors")[0].encoder
    expected = net_of(ends[2], recipe, encoder)
    assert same(kept.state_dict(), expected)


def net_of(weights: dict, recipe, encoder) -> dict:
    """What a plain encoder would have of them."""
    net = first_network(recipe, PretrainedEncoder.read(encoder / "encoder.safetensors"), 10, Key(0))
    net.encoder.load_state_dict(weights)
    return without_lora(net.encoder).state_dict()


def stopped_at(write: int, recipe, encoder, root: Path, moment: str) -> int:
    """kill -9 at the given move of a finished file into its place, before it or just after."""

    def die(part: Path, file: Path, move=os.replace) -> None:
        die.count += 1
        if die.count == write and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        move(part, file)
        if die.count == write:
            os.kill(os.getpid(), signal.SIGKILL)

    die.count = 0

    def work() -> None:
        os.replace = die
        unshaken.finetune(encoder, recipe, unshaken.Workspace(root, save_every=1e9, quiet=True))

    return in_child(work)


@pytest.mark.parametrize(
    ("write", "moment"),
    variants(
        [(3, "after"), (6, "before"), (6, "after"), (7, "before"), (8, "before"), (9, "after"), (14, "before"),
         (23, "before"), (24, "after"), (25, "before")],
        [(7, "before")],
    ),
)  # fmt: skip
def test_killed_between_any_two_writes(recipe, encoder, unbroken, tmp_path, write, moment):
    """Checkpoints, best weights, history, classifier, run.json: the same bits and the same log, each line once."""
    code = stopped_at(write, recipe, encoder, tmp_path, moment)
    assert code in (-signal.SIGKILL, 0)  # there may be fewer writes than that
    result, log = unbroken
    assert finish(recipe, encoder, tmp_path)["digest"] == result["digest"]
    assert lines(tmp_path) == log
    assert not list(tmp_path.rglob("best*"))


@pytest.mark.extra
@pytest.mark.parametrize("step", [0, 11, 19])
def test_killed_between_checkpoints(recipe, encoder, unbroken, tmp_path, step):
    """Between the ends of two legs what was saved in the middle of one is gone on from."""
    save = Run.save

    def work() -> None:
        def dying(run: Run, onward, *state) -> None:
            if onward.step > step:
                os.kill(os.getpid(), signal.SIGKILL)
            save(run, onward, *state)

        Run.save = dying
        finish(recipe, encoder, tmp_path)

    assert in_child(work) == -signal.SIGKILL
    result, log = unbroken
    assert finish(recipe, encoder, tmp_path)["digest"] == result["digest"]
    assert lines(tmp_path) == log


@pytest.mark.extra
@pytest.mark.parametrize("epoch", [1, 2])
def test_asked_to_stop_while_validating(recipe, encoder, unbroken, tmp_path, monkeypatch, epoch):
    """The signal is noted, and the step that follows is saved."""
    robust = module.robust_accuracy

    def asked(recipe, net, aside) -> float:
        asked.count += 1
        if asked.count == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        return robust(recipe, net, aside)

    asked.count = 0
    monkeypatch.setattr(module, "robust_accuracy", asked)
    with pytest.raises(Interrupted) as stop:
        unshaken.finetune(encoder, recipe, unshaken.Workspace(tmp_path, save_every=1e9, quiet=True))
    assert stop.value.code == 143
    (checkpoint,) = tmp_path.rglob("checkpoint.safetensors")
    assert read_tensors(checkpoint)[1]["place"]["step"] == 5 * epoch + 1
    monkeypatch.undo()
    result, log = unbroken
    assert finish(recipe, encoder, tmp_path)["digest"] == result["digest"]
    assert lines(tmp_path) == log


@pytest.mark.extra
def test_a_finished_run_is_found_and_a_lost_classifier_made_again(recipe, encoder, unbroken, tmp_path):
    first = finish(recipe, encoder, tmp_path)
    assert finish(recipe, encoder, tmp_path) == first
    (file,) = tmp_path.rglob("classifier.safetensors")
    file.unlink()
    assert finish(recipe, encoder, tmp_path)["digest"] == unbroken[0]["digest"]


def test_a_lost_history_is_told(recipe, encoder, tmp_path):
    assert stopped_at(16, recipe, encoder, tmp_path, "after") == -signal.SIGKILL
    (file,) = tmp_path.rglob("history.json")
    file.unlink()
    with pytest.raises(ValueError, match="lacks epochs that the checkpoint has"):
        finish(recipe, encoder, tmp_path)


def test_two_routes(recipe, encoder, tmp_path):
    """Natural images through their own; what is kept is the adversarial one."""
    dual = replace(recipe, method=replace(recipe.method, natural="clean"), epochs=1)
    run = unshaken.finetune(encoder, dual, unshaken.Workspace(tmp_path, quiet=True))
    net, _ = load_classifier(run / "classifier.safetensors")
    assert not any(".routes." in name for name in net.state_dict())


def test_the_published_choices(encoder):
    published = unshaken.finetune_recipe(encoder, "autolora", unshaken.DataSource("cifar10"))
    assert published == AutoFinetune(
        AutoLoRa(PGD(Linf(8 / 255), steps=10, init="gaussian")), validation=Evaluation(PGD(Linf(8 / 255), steps=20))
    )
    assert (published.epochs, published.batch_size, published.aside, published.holdout) == (50, 128, 20, 0)
    assert (published.optimizer.momentum, published.optimizer.weight_decay) == (0.9, 2e-4)
    assert published.mode == "autolora"
    digits = unshaken.finetune_recipe(encoder, "autolora")
    assert digits.method.attack == PGD(Linf(0.1), steps=10, init="gaussian")
    assert digits.data.name == "digits"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"aside": 1}, "aside is"), ({"holdout": 1}, "holdout is 0"), ({"aside": 500}, "no class has 500 images")],
)
def test_mistakes_are_told(recipe, encoder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        unshaken.finetune(encoder, replace(recipe, **changes), unshaken.Workspace(tmp_path, quiet=True))
