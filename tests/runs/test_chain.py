"""Recipes that begin with an encoder: run first, found, or read from a file; stopped in any stage, and gone on with."""

import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_encoder, read_tensors, save_encoder
from unshaken.nets.dual_bn import merge_route, routes_of, with_routes
from unshaken.nets.network import seeded
from unshaken.runs.encoder import PretrainedEncoder
from variants import variants

TINY = unshaken.DataSource(limit=64)
GREY = Backbone("resnet-small", 8, 1, (0.5,), (0.5,))


def quick(recipe, **changes):
    """One epoch of two batches, with an attack of one step where there is one."""
    method = recipe.method
    if hasattr(method, "attack"):
        changes["method"] = replace(method, attack=PGD(Linf(0.1), 1))
    return replace(recipe, data=TINY, epochs=1, batch_size=32, **changes)


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_encoder(run / "encoder.safetensors")[0].state_dict()


def test_the_teacher_is_run_first_on_the_same_images(tmp_path):
    """And found there the next time; its identity is in the record of what learned from it."""
    recipe = quick(unshaken.recipe("deacl/digits"), seed=3)
    run = unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True))
    (teacher,) = tmp_path.glob("simclr-digits-*")
    told = json.loads((teacher / "recipe.json").read_text())["recipe"]
    assert (told["data"]["limit"], told["seed"], told["epochs"]) == (64, 3, 30)
    met = json.loads((run / "recipe.json").read_text())["data"]
    assert met["teacher"] == met["start"] == PretrainedEncoder.read(teacher / "encoder.safetensors").identity
    about = load_encoder(run / "encoder.safetensors")[2]
    assert about["pretrain"]["teacher"]["recipe"]["name"] == "simclr"
    written = (teacher / "run.json").stat().st_mtime_ns
    assert unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True)) == run
    assert (teacher / "run.json").stat().st_mtime_ns == written


def test_a_student_starts_from_its_teacher_and_has_its_network(tmp_path):
    """An encoder of another network than the recipe's, as one has it from elsewhere: at rate 0 the student is it."""
    backbone = Backbone("resnet-small", 8, 1, (0.4,), (0.3,))
    encoder = with_routes(seeded(backbone.build, Key(5)), ("clean", "adv"))
    with torch.no_grad():
        encoder.backbone.bn1.routes["clean"].weight.mul_(1.5)
    file = tmp_path / "theirs.safetensors"
    origin = {"recipe": {"name": "theirs", "data": {"type": "DataSource", "name": "digits"}, "seed": 0}}
    save_encoder(file, encoder, backbone, {"pretrain": origin})
    recipe = quick(unshaken.recipe("deacl/digits"), teacher=str(file))
    still = replace(recipe, lr=replace(recipe.lr, peak=0.0))
    run = unshaken.pretrain(still, unshaken.Workspace(tmp_path / "runs", quiet=True))
    student, ours, _ = load_encoder(run / "encoder.safetensors")
    assert ours == backbone
    plain = merge_route(encoder, "clean")
    for (name, p), q in zip(merge_route(student, "shared").named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((), ("shared",)), (("clean",), ("clean", "adv")), (("clean", "adv"), ("adv", "clean")), (("shared",), ())],
)
def test_weights_are_lent_route_by_route(given, wanted):
    """A route takes those of its namesake, or else the clean one's."""

    def encoder(routes, seed):
        net = seeded(GREY.build, Key(seed))
        net = with_routes(net, routes) if routes else net
        with torch.no_grad():
            for k, route in enumerate(routes):
                net.backbone.bn1.routes[route].weight.fill_(k + 2)
        return net

    theirs, ours = encoder(given, 0), encoder(wanted, 1)
    PretrainedEncoder(theirs, GREY, {}).load_into(ours)
    for route in wanted or ("",):
        source = route if route in given else "clean" if "clean" in given else next(iter(given), "")
        a, b = merge_route(ours, route).state_dict(), merge_route(theirs, source).state_dict()
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_pseudo_labels_are_clusters_of_the_teacher_s_features(tmp_path):
    """Kept in the run: what goes on later learns from the same."""
    recipe = quick(unshaken.recipe("advcl/digits"), clusters=(2, 5))
    run = unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True))
    label = read_tensors(run / "pseudo-labels.safetensors")[0]["label"]
    assert label.shape == (64, 2)
    assert [len(set(column.tolist())) for column in label.T] == [2, 5]
    assert recipe.teacher == "simclr/digits"
    assert routes_of(load_encoder(run / "encoder.safetensors")[0]) == ("clean", "adv", "adv_ce")


def test_what_is_kept_of_dynacl_is_the_moving_encoder(tmp_path):
    """With momentum 1 it never moves: it is the encoder that was born, but for its statistics."""
    recipe = quick(unshaken.recipe("dynacl/digits"))
    recipe = replace(recipe, method=replace(unshaken.recipe("dynacl/digits").method, momentum=1.0))
    kept = state(unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True)))
    at_birth = recipe.build_network().encoder.state_dict()
    for name, value in kept.items():
        assert torch.equal(value, at_birth[name]) != ("running" in name or "tracked" in name), name


def test_labels_are_asked_for_where_they_are_learned_from(tmp_path):
    (tmp_path / "flat").mkdir()
    for k in range(3):
        Image.new("RGB", (8, 8), (50 * k, 0, 0)).save(tmp_path / "flat" / f"{k}.png")
    recipe = replace(unshaken.recipe("sat/cifar10"), data=unshaken.DataSource(str(tmp_path / "flat"), size=8))
    with pytest.raises(ValueError, match="sat learns from labels"):
        unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True))


def plusplus(root: Path) -> unshaken.Pretrain:
    recipe = unshaken.recipe("dynacl++/digits")
    probe, tune = (replace(stage, epochs=1, batch_size=32) for stage in (recipe.probe, recipe.tune))
    tune = replace(tune, method=replace(tune.method, attack=PGD(Linf(0.1), 1, init="gaussian")))
    return replace(recipe, teacher=str(root / "base.safetensors"), data=TINY, clusters=4, probe=probe, tune=tune)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    encoder = with_routes(seeded(GREY.build, Key(5)), ("clean", "adv"))
    origin = {"recipe": {"name": "dynacl", "data": {"type": "DataSource", "name": "digits"}, "seed": 0}}
    save_encoder(root / "base.safetensors", encoder, GREY, {"pretrain": origin})
    return root


@pytest.mark.parametrize("moments", variants(["first", "first and last"], ["first"]))
def test_stopped_in_any_stage_it_goes_on_to_the_same_bits(moments, base, tmp_path):
    """kill -9 at the first and the last file of each name that it moves into place, before or after."""
    recipe, moves = plusplus(base), []

    def counted(part: Path, file: Path, replace=os.replace) -> None:
        moves.append(Path(file).name)
        replace(part, file)

    os.replace, kept = counted, os.replace
    try:
        whole = unshaken.pretrain(recipe, unshaken.Workspace(tmp_path / "whole", save_every=0, quiet=True))
    finally:
        os.replace = kept
    assert {"pseudo-labels.safetensors", "head.safetensors", "encoder.safetensors"} <= set(moves)
    last = {name: at for at, name in enumerate(moves)}
    for at in {moves.index(name) for name in moves} | ({*last.values()} if "last" in moments else set()):
        root = tmp_path / f"broken{at}"
        assert (
            in_child(
                lambda at=at, root=root: dying(
                    at, lambda: unshaken.pretrain(recipe, unshaken.Workspace(root, save_every=0, quiet=True))
                )
            )
            < 0
        )
        run = unshaken.pretrain(recipe, unshaken.Workspace(root, save_every=0, quiet=True))
        assert json.loads((run / "run.json").read_text())["digest"] == digest(whole), moves[at]


def dying(at: int, work) -> None:
    """Do the work, and be killed at its at-th move: every other time before, else after it."""
    count = iter(range(10**6))

    def move(part: Path, file: Path, replace=os.replace) -> None:
        last = next(count) == at
        if not last or at % 2:
            replace(part, file)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = move
    work()


def digest(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["digest"]


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


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["pretrain", "deacl/digits", "--teacher", "nowhere"], "neither a run, nor an encoder file, nor a recipe"),
        (["pretrain", "deacl/digits", "--teacher", "None"], "name it by --teacher"),
        (["pretrain", "acl/digits", "--start", "teacher"], "name it by --teacher"),
        (["pretrain", "acl/digits", "--teacher", "BASE"], "acl learns from no teacher"),
        (["pretrain", "acl/digits", "--clusters", "5"], "acl learns from no pseudo-labels"),
        (["pretrain", "advcl/digits", "--clusters"], "advcl learns from pseudo-labels"),
        (["pretrain", "advcl/digits", "--data.limit", "40", "--teacher", "BASE"], "40 images cannot form 500 clusters"),
        (["pretrain", "dynacl++/digits", "--clusters", "1"], "whole number ≥ 2"),
        (["pretrain", "dynacl++/digits", "--split", "test"], "the test images are for"),
        (["pretrain", "deacl/cifar10", "--teacher", "BASE", "--data", "digits", "--split", "x"], "has no split 'x'"),
    ],
)
def test_mistakes_are_one_line(args, words, base, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = [str(base / "base.safetensors") if arg == "BASE" else arg for arg in args]
    assert cli.run(args) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unshaken: ")]
    assert len(said) == 1
    assert words in said[0]
