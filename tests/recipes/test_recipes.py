"""Every recipe takes a real step; the papers' numbers are where they should be."""

import json
from dataclasses import replace

import pytest
import torch

import unshaken
from unshaken.base.clock import Clock
from unshaken.base.keys import Key
from unshaken.methods.method import Step
from unshaken.nets.routed import merged
from unshaken.nets.saved import load_classifier, load_encoder
from unshaken.recipes.examine import exam_for
from unshaken.recipes.papers import PAPERS
from unshaken.recipes.presets import preset
from unshaken.recipes.settings import SETTINGS, known_as, setting_of
from unshaken.threat.ball import Linf
from unshaken.threat.pgd import PGD
from unshaken.train.feed import Feed, Place
from unshaken.tune.full import AFF
from unshaken.tune.linear import ALF, SLF


@pytest.mark.parametrize("method", PAPERS)
def test_takes_a_step_on_digits(method):
    """One update, no more: all that should move moves, the loss is finite and its terms are named."""
    recipe = unshaken.recipe(f"{method}/digits")
    images = recipe.data.load("train")[:64]
    step = Step(recipe.method, recipe.embedder()).train()
    feed = Feed(images, recipe.views, recipe.strength, 32, recipe.epochs, Key(recipe.seed))
    place, _, batch = next(feed.after(Place()))
    optimizer = recipe.optimizer.over(step)
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(feed.clock(place))
    before = {name: tensor.clone() for name, tensor in step.net.state_dict().items()}
    terms = step(batch, feed.clock(place), Key(0))
    terms["loss"].backward()
    optimizer.step()
    assert all(torch.isfinite(value) for value in terms.values())
    still = [n for n, t in step.net.state_dict().items() if torch.equal(t, before[n]) and n not in fixed(before)]
    assert still == []


def fixed(state: dict) -> set[str]:
    return {name for name in state if name.startswith("encoder.normalize.")}


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "stl10"])
@pytest.mark.parametrize("method", PAPERS)
def test_the_papers_numbers(method, data):
    """Batch 512, 1000 epochs, LARS 5.0 with 10 epochs of warm-up, decay 1e-6, τ 0.5, PGD-5 of 2/255 in 8/255, λ 0.5."""
    recipe = unshaken.recipe(f"{method}/{data}")
    assert (recipe.batch, recipe.epochs, recipe.backbone.name) == (512, 1000, "resnet18")
    assert (recipe.backbone.stem, recipe.split) == ((96, "unlabeled") if data == "stl10" else (32, "train"))
    assert (recipe.rate.peak, recipe.rate.warmup, recipe.rate.floor) == (5.0, 10, 1e-6)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay, recipe.optimizer.trust) == (0.9, 1e-6, 0.001)
    assert recipe.head.layers == 3
    if method == "simclr":
        assert recipe.method.tau == 0.5
        return
    acl = getattr(recipe.method, "acl", recipe.method)
    assert acl.tau == 0.5
    assert (acl.attack.steps, acl.attack.ball.eps) == (5, 8 / 255)
    assert acl.attack.stride * acl.attack.ball.eps == pytest.approx(2 / 255)
    if method.endswith("air"):
        assert (recipe.method.lambda1, recipe.method.lambda2, recipe.method.divergence) == (0.5, 0.5, "kl")
    if method.startswith("dynacl"):
        late = Clock(0, 999, 1000, 1000)
        assert recipe.strength(late) == pytest.approx(0.05)
        assert acl.omega(late) == pytest.approx(2 / 3 * 0.95)
    else:
        assert recipe.strength.value == 1.0
        assert acl.omega.value == 0.0


def test_equal_recipes_equal_birth():
    recipe = unshaken.recipe("acl/digits")
    one, two, other = recipe.embedder(), recipe.embedder(), replace(recipe, seed=2).embedder()
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
    ],
)
def test_fine_tuning_presets(method, mode, data, expected):
    row = preset(method, mode, data)
    assert (row.rate, row.at, row.epochs, row.batch) == expected


def test_a_parquet_copy_is_known_by_its_folder():
    assert known_as(unshaken.Source("some/where/cifar10")) == "cifar10"
    assert known_as(unshaken.Source("photos")) == "photos"
    assert setting_of(unshaken.Source("some/digits")).ball.eps == 8 / 255


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'dynacl-air'"):
        unshaken.recipe("dynacl_air/cifar10")
    with pytest.raises(ValueError, match="did you mean 'cifar100'"):
        unshaken.recipe("acl/cifar-100")
    assert unshaken.recipe("acl") == unshaken.recipe("acl/cifar10")
    assert set(SETTINGS) == {"cifar10", "cifar100", "stl10", "digits"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder whose two routes differ: a few steps of ACL."""
    recipe = unshaken.recipe("acl/digits")
    attack = replace(recipe.method.attack, steps=1)
    quick = replace(recipe, method=replace(recipe.method, attack=attack), data=unshaken.Source(limit=64), epochs=2)
    return quick.run(tmp_path_factory.mktemp("runs"), quiet=True)


def test_protocols_are_the_fields(encoder):
    slf, alf, aff = (unshaken.protocol(mode, encoder) for mode in ("slf", "alf", "aff"))
    assert [p.mode for p in (slf, alf, aff)] == ["slf", "alf", "aff"]
    assert slf.method == SLF()
    assert alf.method == ALF(PGD(Linf(0.1), steps=10, start="ball"))
    assert aff.method == AFF(PGD(Linf(0.1), steps=10, start="near"), beta=6.0, natural="clean")
    other = unshaken.protocol("alf", encoder, unshaken.Source("cifar10"))
    assert other.method.attack.ball == Linf(8 / 255)
    assert (slf.optimizer.momentum, slf.optimizer.weight_decay, slf.optimizer.nesterov) == (0.9, 2e-4, False)


@pytest.mark.parametrize("mode", ["slf", "aff"])
def test_the_adversarial_route_is_tuned_on_training_images(encoder, mode):
    """SLF leaves the encoder's adversarial route as it was; AFF keeps that route of both; no test image is met."""
    protocol = replace(unshaken.protocol(mode, encoder), epochs=1)
    run = protocol.run(encoder, quiet=True)
    assert json.loads((run / "recipe.json").read_text())["data"]["images"]["split"] == "train"
    assert exam_for(run).attack == PGD(Linf(0.1), steps=20)
    body = load_encoder(encoder / "encoder.safetensors")[0].eval()
    net = load_classifier(run / "classifier.safetensors")[0].eval()
    x = unshaken.Source().load("test")[:16].floats()
    features = net.encoder(x)
    if mode == "slf":
        assert torch.equal(features, merged(body, "adv")(x))
        assert not torch.allclose(features, merged(body, "clean")(x), atol=1e-3)
    else:
        moved = [(features - merged(body, route)(x)).abs().mean() for route in ("adv", "clean")]
        assert moved[0] < moved[1]


def test_training_on_the_test_images_is_refused():
    with pytest.raises(ValueError, match="the test images are for the exam"):
        replace(unshaken.recipe("acl/digits"), split="test")
