"""The best weights: those that score best by a computation of its own; resumed and with two processes the same ones."""

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import unshaken
from processes import launched_together
from unshaken.attacks.pgd import PGD
from unshaken.base.schedule import MultiStep
from unshaken.interop.load import load_model
from unshaken.methods.supervised import AFF
from unshaken.nets.checkpoint import digest
from unshaken.nets.dual_bn import merge_route
from unshaken.nets.network import Network
from unshaken.train.averaging import EMA
from unshaken.train.best_weights import Best, KeptWeights
from unshaken.train.gauges import GaugeOptions
from unshaken.train.image_sets import hold_out, load_images, load_labelled
from unshaken.train.optim import SGD
from unshaken.train.run_dir import Run

DATA = unshaken.DataSource("digits", limit=120)
KEEP = Best(after=0.0, steps=2)


def space(root: Path) -> unshaken.Workspace:
    return unshaken.Workspace(root, unshaken.Runtime("cpu"), save_every=0, quiet=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    recipe = replace(unshaken.recipe("acl/digits"), data=DATA, epochs=1, batch_size=80)
    return unshaken.pretrain(recipe, space(tmp_path_factory.mktemp("encoder")))


def finetune(encoder: Path, root: Path, rank: int = 0) -> Path:
    """Four epochs; the learning rate of the last one destroys what was learned."""
    recipe = unshaken.finetune_recipe(encoder, "aff")
    recipe = replace(
        recipe, method=AFF(replace(recipe.method.attack, steps=1)), lr=MultiStep(0.3, at=(3,), gamma=100.0),
        optimizer=SGD(momentum=0.9), epochs=4, batch_size=40, holdout=3, keep=KEEP, averaging=EMA(memory=0.01),
    )  # fmt: skip
    return unshaken.finetune(encoder, recipe, space(root))


def pretrain(root: Path, rank: int = 0) -> Path:
    recipe = replace(
        unshaken.recipe("acl/digits"), data=DATA, epochs=3, batch_size=40, holdout=3, keep=replace(KEEP, after=0.5)
    )
    return unshaken.pretrain(recipe, space(root))


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.fixture
def seen(monkeypatch) -> dict[int, dict[str, torch.Tensor]]:
    """The weights at each look."""
    found, note = {}, KeptWeights.note

    def noted(self, net: Network, epoch: int, score) -> None:
        one = merge_route(net, "adv") if isinstance(net.head, nn.Linear) else net  # as a classifier is saved
        found[epoch] = {name: tensor.clone() for name, tensor in one.state_dict().items()}
        note(self, net, epoch, score)

    monkeypatch.setattr(KeptWeights, "note", noted)
    return found


class Killed(BaseException):
    pass


def killed_after(monkeypatch, saves: int) -> None:
    save, count = Run.save, [0]

    def dying(self, *given) -> None:
        save(self, *given)
        count[0] += 1
        if count[0] == saves:
            monkeypatch.setattr(Run, "save", save)
            raise Killed

    monkeypatch.setattr(Run, "save", dying)


def test_fine_tuning_keeps_the_most_robust_epoch(tmp_path, encoder, seen, monkeypatch):
    """Accuracies by a computation of its own; and a run that was killed in its second epoch."""
    run = finetune(encoder, tmp_path / "through")
    kept, model = record(run)["kept"], load_model(run / "classifier.safetensors")
    held, net = load_labelled(DATA, model.backbone, 3, held_out=True), model.net
    assert len(held) > 30
    saved, ball = copy.deepcopy(net.state_dict()), unshaken.finetune_recipe(encoder, "aff").method.attack.ball
    x, y = held.floats(slice(None)), held.label
    assert [*seen] == [1, 2, 3, 4]
    for epoch, weights in seen.items():
        net.load_state_dict(weights)
        x_adv = PGD(ball, steps=2).maximise(
            lambda v: cross_entropy(net(v, "adv"), y, reduction="none"), x, torch.Generator().manual_seed(epoch)
        )
        clean, robust = (net(v, "adv").argmax(1) == y for v in (x, x_adv))
        assert kept["scores"][str(epoch)][1] == pytest.approx(float(clean.double().mean()))
        # another random start
        assert kept["scores"][str(epoch)][0] == pytest.approx(float((clean & robust).double().mean()), abs=0.05)
    assert kept["epoch"] == max(seen, key=lambda epoch: (*kept["scores"][str(epoch)], epoch)) < 4
    assert all(torch.equal(value, seen[kept["epoch"]][name]) for name, value in saved.items())
    assert finetune(encoder, tmp_path / "through") == run  # it is found finished
    killed_after(monkeypatch, 3)
    with pytest.raises(Killed):
        finetune(encoder, tmp_path / "broken")
    again = record(finetune(encoder, tmp_path / "broken"))
    assert (again["digest"], again["kept"]) == (record(run)["digest"], kept)


def test_pre_training_keeps_the_epoch_that_an_attack_moves_least(tmp_path, seen, capsys):
    """The median of ‖f(x̃) − f(x)‖ over that of distances of images."""
    run = pretrain(tmp_path / "one")
    kept = record(run)["kept"]
    assert [*seen] == [int(epoch) for epoch in kept["scores"]] == [2, 3]
    recipe = unshaken.recipe("acl/digits")
    held = hold_out(load_images(DATA, "train", recipe.backbone), 3)[1]
    x, net = held.floats(slice(None)), recipe.build_network().eval()
    for epoch, weights in seen.items():
        net.load_state_dict(weights)
        f = net.features(x, "adv").detach()
        x_adv = PGD(recipe.method.attack.ball, steps=2).maximise(
            lambda v, f=f: (net.features(v, "adv") - f).square().sum(-1), x, torch.Generator().manual_seed(epoch)
        )
        moved = sorted((net.features(x_adv, "adv") - f).norm(dim=1).tolist())[(len(x) - 1) // 2]
        apart = sorted(float((f[a] - f[b]).norm()) for a in range(len(x)) for b in range(a))
        assert -kept["scores"][str(epoch)][0] == pytest.approx(moved / apart[(len(apart) - 1) // 2], rel=0.1)
    assert kept["epoch"] == max(seen, key=lambda epoch: kept["scores"][str(epoch)][0])
    assert pretrain(tmp_path / "one") == run
    saved = load_model(run / "encoder.safetensors").net.state_dict()
    assert all(torch.equal(value, seen[kept["epoch"]][f"encoder.{name}"]) for name, value in saved.items())


@pytest.mark.extra
def test_two_processes_choose_the_same(tmp_path, encoder):
    for name, run in {"pretrain": pretrain, "finetune": partial(finetune, encoder)}.items():
        kept = record(run(tmp_path / name / "one"))["kept"]
        launched_together(2, partial(run, tmp_path / name / "two"))
        (other,) = (tmp_path / name / "two").iterdir()
        found = record(other)["kept"]
        assert found["scores"].keys() == kept["scores"].keys()
        assert found["scores"][str(found["epoch"])] == max(found["scores"].values())  # rounding decides between ties
        for epoch, (score, _) in found["scores"].items():
            assert score == pytest.approx(kept["scores"][epoch][0], rel=0.2, abs=0.05)  # two of 40 images


def test_looks_do_not_change_a_run(tmp_path, encoder, monkeypatch):
    """With an average whose statistics are re-estimated at each look, and without looks but the last one."""
    found: list[str] = []
    monkeypatch.setattr(KeptWeights, "restore", lambda self, net: found.append(digest(net)))
    finetune(encoder, tmp_path / "looks")
    monkeypatch.setattr(Best, "due", lambda self, epoch, epochs: epoch == epochs)
    finetune(encoder, tmp_path / "once")
    assert found[0] == found[1]


def test_what_cannot_be_is_refused(tmp_path, encoder):
    with pytest.raises(ValueError, match="--keep Best chooses on training images that are held out: add --holdout 10"):
        unshaken.pretrain(replace(unshaken.recipe("acl/digits"), keep=Best()), space(tmp_path))
    with pytest.raises(ValueError, match="--keep Best chooses on training images that are held out: add --holdout 10"):
        unshaken.finetune(encoder, replace(unshaken.finetune_recipe(encoder, "aff"), keep=Best()), space(tmp_path))
    recipe = replace(unshaken.recipe("acl/digits"), data=unshaken.DataSource("digits", limit=40), batch_size=20)
    recipe, no_gauges = replace(recipe, holdout=10**6, keep=Best()), replace(space(tmp_path), gauges=GaugeOptions(0))
    with pytest.raises(ValueError, match="holds out 0 images, and --keep Best needs 2: choose a smaller number"):
        unshaken.pretrain(recipe, no_gauges)
    with pytest.raises(ValueError, match="holds out 0 images, and gauges need 32: choose a smaller number"):
        unshaken.pretrain(recipe, space(tmp_path))
