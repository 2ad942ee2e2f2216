"""Every recipe takes a real step; the papers' numbers are where they should be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.data.source import standard_name
from unshaken.methods.ainfonce import HN, IP, Adaptive, AsymAdvCL, AsymRoCL
from unshaken.methods.base import Step
from unshaken.methods.supervised import AFF, ALF, SLF
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_classifier, load_encoder, read_tensors
from unshaken.nets.dual_bn import merge_route, routes_of
from unshaken.nets.heads import Projection
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.datasets import DATASETS, defaults_for
from unshaken.recipes.finetune_presets import preset, single
from unshaken.runs.encoder import PretrainedEncoder
from unshaken.runs.evaluate import default_evaluation
from unshaken.runs.first_network import first_network
from unshaken.train.batches import BatchStream, Position
from unshaken.train.image_sets import load_labelled
from unshaken.train.optim import LARS, SGD
from unshaken.transforms.views import Concat, CropFlip
from unshaken.transforms.views import SimCLRViews as SimCLRViews
from variants import variants

TINY = unshaken.DataSource(limit=64)
CONTRASTIVE = [name for name in RECIPES if isinstance(unshaken.recipe(f"{name}/digits"), unshaken.Pretrain)]
STEPPING = [name for name in CONTRASTIVE if not name.endswith(("-rcs", "-plain", "acl-air", "-rocl"))]
ACL_FAMILY = ["simclr", "acl", "dynacl", "dynacl-plain", "acl-air", "dynacl-air"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """An ordinary encoder: two steps of CL."""
    recipe = replace(unshaken.recipe("simclr/digits"), data=TINY, epochs=1, batch_size=32)
    return unshaken.pretrain(recipe, unshaken.Workspace(tmp_path_factory.mktemp("teacher"), quiet=True))


@pytest.mark.parametrize("method", variants(CONTRASTIVE, STEPPING))
def test_takes_a_step_on_digits(method, teacher):
    """One update, no more: all that should move moves, the loss is finite and its terms are named."""
    recipe = unshaken.recipe(f"{method}/digits")
    given = PretrainedEncoder.read(teacher / "encoder.safetensors") if recipe.teacher else None
    images = recipe.data.load("train")[:64]
    counts = {"clusters": (2, 10), "true": (10,), "": ()}[recipe.method.labels]
    label = torch.stack([images.label % count for count in counts], 1) if counts else None
    label = images.label if recipe.method.labels == "true" else label
    net = first_network(recipe, counts, given, given if recipe.start else None)
    step = Step(recipe.method, net).train()
    feed = BatchStream(images, recipe.views, recipe.strength, 32, recipe.epochs, Key(recipe.seed), label)
    position, _, batch = next(feed.after(Position()))
    optimizer = recipe.optimizer.build(step)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr(feed.clock(position))
    before = {name: tensor.clone() for name, tensor in step.net.state_dict().items()}
    last = replace(feed.clock(position), update=recipe.method.updates_per_batch - 1)  # of those on this batch
    terms = step(batch, last, Key(0))
    terms["loss"].backward()
    optimizer.step()
    assert all(torch.isfinite(value) for value in terms.values())
    fixed = [name for name in before if "normalize." in name or name.startswith("teacher.")]
    if recipe.method.teacher == "momentum":  # it follows, and its statistics are its own; here for the first time
        fixed = [name for name in fixed if "running" not in name and "tracked" not in name]
    still = {n for n, t in step.net.state_dict().items() if torch.equal(t, before[n])}
    unseen = {"head.projection.1.routes.adv_ce.bias"}  # what classifies is not projected
    assert still - unseen == set(fixed)


@pytest.mark.parametrize("method", variants(["dynacl++", "dynacl-air++"], ["dynacl++"]))
def test_plusplus_takes_its_three_stages(method, teacher, tmp_path):
    """Pseudo-labels, a probe on a frozen encoder, then TRADES: the adversarial route moves, the clean one does not."""
    base = replace(unshaken.recipe("acl/digits"), data=TINY, epochs=1, batch_size=32)
    encoder = unshaken.pretrain(
        replace(base, method=replace(base.method, attack=PGD(Linf(0.1), 1))), unshaken.Workspace(tmp_path, quiet=True)
    )
    recipe = unshaken.recipe(f"{method}/digits")
    probe, tune = (replace(stage, epochs=1, batch_size=32) for stage in (recipe.probe, recipe.tune))
    recipe = replace(recipe, teacher=str(encoder), data=TINY, probe=probe, tune=tune)
    run = unshaken.pretrain(recipe, unshaken.Workspace(tmp_path, quiet=True))
    before, after = (load_encoder(folder / "encoder.safetensors")[0].state_dict() for folder in (encoder, run))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in moved if ".routes.clean." in name or "normalize" in name}
    assert {name for name in before if name.endswith("weight") and ".clean." not in name} <= moved
    label, about = read_tensors(run / "pseudo-labels.safetensors")
    assert label["label"].shape == (64, 1)
    assert set(label["label"][:, 0].tolist()) == set(range(10))
    plain = unshaken.pretrain(replace(recipe, dual=False), unshaken.Workspace(tmp_path, quiet=True))
    assert routes_of(load_encoder(plain / "encoder.safetensors")[0]) == ()


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "stl10"])
@pytest.mark.parametrize("method", ACL_FAMILY)
def test_the_acl_family_s_numbers(method, data):
    """Batch 512, 1000 epochs, LARS 5.0 with 10 epochs of warm-up, decay 1e-6, τ 0.5, PGD-5 of 2/255 in 8/255, λ 0.5."""
    recipe = unshaken.recipe(f"{method}/{data}")
    assert (recipe.batch_size, recipe.epochs, recipe.backbone.name) == (512, 1000, "resnet18")
    assert (recipe.backbone.image_size, recipe.split) == ((96, "unlabeled") if data == "stl10" else (32, "train"))
    assert (recipe.lr.peak, recipe.lr.warmup, recipe.lr.floor) == (5.0, 10, 1e-6)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay, recipe.optimizer.trust_coefficient) == (
        0.9,
        1e-6,
        0.001,
    )
    assert recipe.head.layers == 3
    assert recipe.views.filter == ("bilinear" if method == "dynacl" else "bicubic")
    if method == "simclr":
        assert recipe.method.tau == 0.5
        return
    acl = getattr(recipe.method, "acl", recipe.method)
    assert acl.tau == 0.5
    assert (acl.attack.steps, acl.attack.ball.eps) == (5, 8 / 255)
    assert acl.attack.rel_step_size * acl.attack.ball.eps == pytest.approx(2 / 255)
    if method.endswith("air"):
        assert (recipe.method.lambda1, recipe.method.lambda2, recipe.method.divergence) == (0.5, 0.5, "kl")
    if method.startswith("dynacl"):
        late = Clock(0, 999, 1000, 1000)
        assert recipe.strength(late) == pytest.approx(0.05)
        assert acl.omega(late) == pytest.approx(2 / 3 * 0.95)
    else:
        assert recipe.strength.value == 1.0
        assert acl.omega.value == 0.0


@pytest.mark.parametrize(
    ("name", "optimizer", "peak", "warmup", "epochs", "batch"),  # the authors' scripts
    [
        ("rocl", LARS(), 1.5, 10, 1000, 512),
        ("advcl", SGD(0.9, 1e-4), 0.5, 10, 1000, 512),
        ("a-infonce", SGD(0.9, 1e-4), 2.0, 10, 400, 512),
        ("a-infonce-rocl", LARS(), 4.5, 10, 1000, 512),
        ("deacl", SGD(0.9, 5e-4), 0.5, 10, 100, 256),
        ("st", SGD(0.9, 5e-4, nesterov=True), 0.1, 0, 100, 256),
        ("sat", SGD(0.9, 5e-4, nesterov=True), 0.1, 0, 100, 256),
        ("trades", SGD(0.9, 5e-4, nesterov=True), 0.1, 0, 100, 256),
    ],
)
def test_other_methods_schedules(name, optimizer, peak, warmup, epochs, batch):
    recipe = unshaken.recipe(f"{name}/cifar10")
    assert recipe.optimizer == optimizer
    assert (recipe.lr.peak, recipe.lr.warmup, recipe.epochs, recipe.batch_size) == (peak, warmup, epochs, batch)


def test_other_methods_numbers():
    rocl, advcl, asym = (unshaken.recipe(f"{name}/cifar10") for name in ("rocl", "advcl", "a-infonce"))
    assert (rocl.method.weight, rocl.method.tau, rocl.method.attack.steps) == (1 / 256, 0.5, 7)
    assert rocl.head == Projection(2, hidden=2048, out=128, norm="none")
    assert (rocl.backbone.mean, rocl.backbone.std) == ((0.0,) * 3, (1.0,) * 3)
    assert rocl.views == replace(SimCLRViews(), min_area=0.08, filter="bilinear")
    assert (advcl.method.ce_weight, advcl.method.radius, advcl.clusters) == (0.2, 8.0, (2, 10, 50, 100, 500))
    assert advcl.views == Concat(replace(SimCLRViews(), min_area=0.2, filter="bilinear"), CropFlip())
    assert advcl.backbone.std == (1.0,) * 3
    assert (advcl.teacher, advcl.start) == ("simclr/cifar10", None)
    assert asym.method == AsymAdvCL(advcl.method, IP(0.2, 0.7), HN(0.1, 1.0), Adaptive(30, 0.4))
    of_100 = unshaken.recipe("a-infonce/cifar100").method
    assert (of_100.ip, of_100.hn, of_100.adaptive) == (IP(0.3, 1.5), HN(0.01, 1.0), Adaptive(20, 0.5))
    assert unshaken.recipe("a-infonce-rocl/cifar10").method == AsymRoCL(rocl.method, IP(0.2), HN(0.12, 1.0))
    deacl = unshaken.recipe("deacl/cifar10")
    assert (deacl.method.gamma, deacl.teacher, deacl.start) == (2.0, "simclr/cifar10", "teacher")
    assert unshaken.recipe("dynacl/cifar10").method.momentum == 0.99
    assert unshaken.recipe("sat/stl10").split == "train"
    for name, data, clusters in (("dynacl++", "cifar100", 10), ("dynacl-air++", "cifar100", 100)):
        recipe = unshaken.recipe(f"{name}/{data}")
        assert (recipe.teacher, recipe.clusters, recipe.dual) == (f"{name[:-2]}/{data}", clusters, True)
        probe, tune = recipe.probe, recipe.tune
        assert (probe.lr.value, probe.epochs, probe.batch_size, probe.optimizer) == (0.01, 10, 512, SGD(0.9, 1e-4))
        assert (tune.lr.peak, tune.lr.at, tune.epochs, tune.batch_size) == (0.1, (10, 20), 25, 512)
        assert tune.method == AFF(PGD(Linf(8 / 255), 10, init="gaussian"), beta=6.0, natural="adv")


def test_equal_recipes_equal_birth():
    recipe = unshaken.recipe("acl/digits")
    one, two, other = recipe.build_network(), recipe.build_network(), replace(recipe, seed=2).build_network()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("method", "mode", "data", "expected"),  # the published table, row by row
    [
        ("acl", "slf", "cifar10", (0.01, (10, 20), 25, 512)),
        ("acl", "alf", "cifar100", (0.05, (10, 20), 25, 512)),
        ("acl", "slf", "stl10", (0.1, (10, 20), 25, 512)),
        ("acl", "slf", "stl10@32", (0.01, (10, 20), 25, 128)),
        ("acl", "aff", "cifar10", (0.1, (40, 60), 100, 128)),
        ("dynacl-plain", "slf", "cifar100", (0.05, (10, 20), 25, 512)),
        ("dynacl-plain", "aff", "cifar10", (0.1, (15, 20), 25, 128)),
        ("dynacl-plain", "aff", "stl10", (0.1, (10, 20), 25, 128)),
        ("acl-air", "slf", "cifar10", (0.005, (10, 20), 25, 512)),
        ("acl-air", "alf", "cifar10", (0.01, (10, 20), 25, 512)),
        ("acl-air", "alf", "cifar100", (0.1, (10, 20), 25, 512)),
        ("acl-air", "slf", "stl10", (0.01, (10, 20), 25, 512)),
        ("acl-air", "aff", "cifar100", (0.1, (40, 60), 100, 128)),
        ("dynacl-air", "slf", "cifar10", (0.01, (10, 20), 5, 512)),
        ("dynacl-air", "slf", "cifar100", (0.1, (10, 20), 25, 512)),
        ("dynacl-air", "alf", "cifar10", (0.01, (10, 20), 25, 512)),
        ("dynacl-air", "alf", "stl10", (0.1, (10, 20), 25, 128)),
        ("dynacl-air", "aff", "cifar10", (0.1, (15, 20), 25, 128)),  # 25 epochs: the 5 of SLF do not leak into it
        ("dynacl", "alf", "cifar10", (0.01, (10, 20), 25, 512)),
        ("dynacl++", "slf", "cifar100", (0.05, (10, 20), 25, 512)),
        ("dynacl", "aff", "stl10", (0.1, (10, 20), 25, 128)),
        ("dynacl-plain", "aff", "stl10@32", (0.1, (15, 20), 25, 128)),
        ("dynacl-air++", "slf", "cifar10", (0.01, (10, 20), 25, 512)),
        ("dynacl-air++", "alf", "cifar10", (0.01, (10, 20), 4, 512)),
        ("dynacl-air++", "alf", "stl10", (0.1, (10, 20), 25, 128)),
        ("dynacl-air++", "slf", "stl10@32", (0.1, (10, 20), 25, 128)),
        ("dynacl-rcs", "slf", "cifar100", (0.05, (10, 20), 25, 512)),
        ("acl-rcs", "aff", "cifar10", (0.1, (40, 60), 100, 128)),
        ("dynacl-air++", "aff", "cifar10", (0.1, (15, 20), 25, 128)),  # and not 19
        ("advcl", "slf", "cifar10", (0.01, (15, 20), 25, 512)),
        ("a-infonce", "alf", "cifar100", (0.01, (15, 20), 25, 512)),
        ("deacl", "aff", "cifar10", (0.1, (15, 20), 25, 128)),
        ("nothing-of-ours", "slf", "cifar10", (0.1, (15, 20), 25, 128)),
    ],
)
def test_fine_tuning_presets(method, mode, data, expected):
    row = preset(method, mode, data)
    assert (row.lr, row.at, row.epochs, row.batch_size) == expected


@pytest.mark.parametrize(
    ("method", "mode", "epochs"),
    [("dynacl-air", m, 5) for m in ("slf", "alf", "aff")]
    + [("dynacl-air++", "slf", 25), ("dynacl-air++", "alf", 4), ("dynacl-air++", "aff", 4)],
)
def test_the_epochs_that_leaked_are_a_protocol_by_name(method, mode, epochs):
    clean, leaked = preset(method, mode, "cifar10"), preset(method, mode, "cifar10", leaked=True)
    assert leaked == replace(clean, epochs=epochs)
    with pytest.raises(ValueError, match="epochs leaked only for dynacl-air on cifar10"):
        preset("acl", mode, "cifar10", leaked=True)


@pytest.mark.parametrize(
    ("method", "origin", "target", "one"),
    [
        ("advcl", "cifar10", "cifar10", True),
        ("deacl", "cifar10", "cifar100", True),
        ("a-infonce", "cifar100", "cifar100", True),
        ("acl", "cifar10", "stl10@32", True),
        ("acl", "cifar100", "stl10@32", False),
        ("acl-rcs", "imagenet32", "cifar10", True),
        ("dynacl-air", "cifar10", "cifar100", False),
    ],
)
def test_where_the_authors_scripts_tune_one_route(method, origin, target, one):
    assert single(method, origin, target) == one


def test_images_kept_aside_are_of_every_class_and_not_trained_on(encoder):
    protocol = replace(unshaken.finetune_recipe(encoder, "slf"), data=unshaken.DataSource(), holdout=10, epochs=1)
    whole = unshaken.DataSource().load("train")
    network = Backbone("resnet-small", 8, 1, (0.5,), (0.5,))
    kept, aside = (load_labelled(protocol.data, network, 10, held_out) for held_out in (False, True))
    assert len(kept) + len(aside) == len(whole)
    assert (aside.split, kept.split) == ("held-out", "train")
    assert all(abs(int((aside.label == c).sum()) - int((whole.label == c).sum()) / 10) < 1 for c in range(10))
    rows = {tuple(row) for row in kept.pixels.flatten(1).tolist()}
    assert not any(tuple(row) in rows for row in aside.pixels.flatten(1).tolist())
    run = unshaken.finetune(encoder, protocol, unshaken.Workspace(quiet=True))
    chosen = unshaken.evaluate(run, held_out=True, workspace=unshaken.Workspace(quiet=True))
    assert (chosen["data"]["split"], chosen["standard"]["n"]) == ("held-out", len(aside))
    assert not (run / "result.json").exists()
    assert json.loads((run / "recipe.json").read_text())["data"]["images"]["n"] == len(kept)
    with pytest.raises(ValueError, match="has no held-out images"):
        unshaken.evaluate(
            unshaken.finetune(encoder, replace(protocol, holdout=0), unshaken.Workspace(quiet=True)),
            held_out=True,
            workspace=unshaken.Workspace(quiet=True),
        )


def test_a_parquet_copy_is_known_by_its_folder():
    assert standard_name(unshaken.DataSource("some/where/cifar10")) == "cifar10"
    assert standard_name(unshaken.DataSource("photos")) == "photos"
    assert defaults_for(unshaken.DataSource("some/digits")).ball.eps == 8 / 255


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'dynacl-air'"):
        unshaken.recipe("dynacl_air/cifar10")
    with pytest.raises(ValueError, match="did you mean 'cifar100'"):
        unshaken.recipe("acl/cifar-100")
    assert unshaken.recipe("acl") == unshaken.recipe("acl/cifar10")
    assert set(DATASETS) == {"cifar10", "cifar100", "stl10", "digits", "imagenet32", "imagenet"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder whose two routes differ: a few steps of ACL."""
    recipe = unshaken.recipe("acl/digits")
    attack = replace(recipe.method.attack, steps=1)
    quick = replace(recipe, method=replace(recipe.method, attack=attack), data=unshaken.DataSource(limit=64), epochs=2)
    return unshaken.pretrain(quick, unshaken.Workspace(tmp_path_factory.mktemp("runs"), quiet=True))


def test_protocols_are_the_fields(encoder):
    slf, alf, aff = (unshaken.finetune_recipe(encoder, mode) for mode in ("slf", "alf", "aff"))
    assert [p.mode for p in (slf, alf, aff)] == ["slf", "alf", "aff"]
    assert slf.method == SLF()
    assert alf.method == ALF(PGD(Linf(0.1), steps=10, init="uniform"))
    assert aff.method == AFF(PGD(Linf(0.1), steps=10, init="gaussian"), beta=6.0, natural="clean")
    other = unshaken.finetune_recipe(encoder, "alf", unshaken.DataSource("cifar10"))
    assert other.method.attack.ball == Linf(8 / 255)
    assert (slf.optimizer.momentum, slf.optimizer.weight_decay, slf.optimizer.nesterov) == (0.9, 2e-4, False)


@pytest.mark.parametrize("mode", ["slf", "aff"])
def test_the_adversarial_route_is_tuned_on_training_images(encoder, mode):
    """SLF leaves the encoder's adversarial route as it was; AFF keeps that route of both; no test image is met."""
    protocol = replace(unshaken.finetune_recipe(encoder, mode), epochs=1)
    run = unshaken.finetune(encoder, protocol, unshaken.Workspace(quiet=True))
    assert json.loads((run / "recipe.json").read_text())["data"]["images"]["split"] == "train"
    assert default_evaluation(run).attack == PGD(Linf(0.1), steps=20)
    body = load_encoder(encoder / "encoder.safetensors")[0].eval()
    net = load_classifier(run / "classifier.safetensors")[0].eval()
    x = unshaken.DataSource().load("test")[:16].floats()
    features = net.encoder(x)
    if mode == "slf":
        assert torch.equal(features, merge_route(body, "adv")(x))
        assert not torch.allclose(features, merge_route(body, "clean")(x), atol=1e-3)
    else:
        moved = [(features - merge_route(body, route)(x)).abs().mean() for route in ("adv", "clean")]
        assert moved[0] < moved[1]


def test_training_on_the_test_images_is_refused():
    with pytest.raises(ValueError, match="the test images are for"):
        replace(unshaken.recipe("acl/digits"), split="test")


@pytest.mark.parametrize(
    ("recipe", "values", "says"),
    [
        ("acl/digits", {"ghost_batch": 1}, "--ghost-batch is 2 or more, and smaller than the batch of 128 images"),
        ("acl/digits", {"ghost_batch": 128}, "or 0 for statistics over the whole batch; not 128"),
        ("fare/digits", {"ghost_batch": 8}, "batch norms that are frozen take no statistics: leave --ghost-batch out"),
        ("slf", {"ghost_batch": 8}, "slf trains no batch norm: --ghost-batch is for aff"),
    ],
)
def test_ghost_batches_that_change_nothing_are_refused(recipe, values, says):
    given = unshaken.Finetune() if recipe == "slf" else unshaken.recipe(recipe)
    with pytest.raises(ValueError, match=says):
        replace(given, **values)
