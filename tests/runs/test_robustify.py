"""Robustify: an encoder of somebody else, made robust on digits, comes back in its own form with its measures."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import unshaken
from unshaken import cli
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import Random
from unshaken.coreset.submodular import GradientMatching
from unshaken.evaluation.drift_under_attack import against_gallery, fidelity
from unshaken.evaluation.linear_probe import linear_probe
from unshaken.methods.lore import LORE
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_classifier, load_encoder, save_encoder
from unshaken.nets.lora import merge_lora, train_branch_only, with_lora
from unshaken.recipes.robust import OBJECTIVES, batch_for, robust_recipe
from unshaken.runs.robustify import Original, recipe_for
from unshaken.runs.scores import scored
from unshaken.train.approximations import Approximations
from unshaken.train.best_weights import Best
from unshaken.train.guard import Guard
from unshaken.train.image_sets import hold_out
from unshaken.train.optim import AdamW
from variants import variants

GREY = Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,))
IMPORTED = ["--source.mean", "0.5", "--source.std", "0.5", "--source.image-size", "8"]
TINY = ["--data.limit", "64", "--epochs", "1", "--batch-size", "32", "--method.attack.steps", "1", "--test", "16"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """A checkpoint under torchvision's names, with a classifier; untrained, with statistics of its own."""
    torch.manual_seed(0)
    net = GREY.build().train()
    net(unshaken.DataSource("digits").load("train").floats(slice(0, 256)))
    file = tmp_path_factory.mktemp("theirs") / "theirs.pth"
    torch.save({**net.backbone.state_dict(), "fc.weight": torch.rand(10, net.features)}, file)
    return file


@pytest.mark.parametrize("objective", variants([OBJECTIVES[0], "lore"], [OBJECTIVES[0]]))
def test_the_command_ends_with_the_original_s_keys_and_a_page(objective, theirs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["robustify", str(theirs), "--data", "digits", "--objective", objective, *TINY, *IMPORTED]
    assert cli.run(args) == 0
    (run,) = tmp_path.glob(f"runs/{objective}-digits-*")
    before, after = (torch.load(file, weights_only=True) for file in (theirs, run / "theirs-robust.pth"))
    assert list(before) == list(after)
    assert {name for name in before if not torch.equal(before[name], after[name])} >= {
        "conv1.weight",
        "layer1.0.conv1.weight",
    }
    assert torch.equal(before["fc.weight"], after["fc.weight"])
    still = all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert still == (objective in ("fare", "lore"))  # frozen by default
    encoder = load_encoder(run / "encoder.safetensors")[0]
    assert torch.equal(encoder.backbone.conv1.weight, after["conv1.weight"])
    found = json.loads((run / "robustness.json").read_text())
    assert found["accuracy"]["25.5"]["after"]["robust"]["n"] == 16
    assert found["accuracy"]["25.5"]["old_probe"]["robust"]["n"] == 16
    (fitted,) = tmp_path.glob("runs/theirs/probe-*")
    (of_robust,), (old,) = run.glob("probe-*"), run.glob("old-probe-*")
    heads = [load_classifier(folder)[0].head for folder in (fitted, old, of_robust)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[1].weight, heads[2].weight)
    assert torch.equal(load_classifier(old)[0].encoder.backbone.conv1.weight, after["conv1.weight"])
    scores = [found["accuracy"]["25.5"][which]["robust"] for which in ("before", "old_probe")]
    shares = " | ".join(f"{score['percent']:.1f} % ({score['correct']} of 16)" for score in scores)
    assert f"the original's linear probe under attack, ε = 25.5/255 | {shares} |" in (run / "README.md").read_text()
    assert found["embedding"]["25.5"]["before"]["n"] == 64
    assert found["fidelity"]["clean_drift"] > 0
    assert 0 < found["fidelity"]["cosine"] < 1
    assert "identity lost under attack" in (run / "README.md").read_text()
    assert "theirs-robust.pth" in capsys.readouterr().out
    assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["rollbacks"] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "needs images: --data FOLDER"),
        (["--data", "digits", "--objective", "fair"], "no objective 'fair'; did you mean fare"),
        (["--data", "digits", "--data.size", "big"], "a side in pixels"),
    ],
)
def test_mistakes_are_one_line(args, words, theirs, capsys):
    assert cli.run(["robustify", str(theirs), *args]) == 2
    assert words in capsys.readouterr().err


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x - 0.5)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


def test_a_module_of_the_user_s_own(small, tmp_path):
    """A copy is trained: less drift under attack, the original untouched; a second call reads the first."""
    images, before = unshaken.DataSource("digits", limit=256).load("train"), copy.deepcopy(small.state_dict())
    recipe = replace(robust_recipe("fare", "module", GREY, unshaken.DataSource("digits")), epochs=8, batch_size=32)
    recipe = replace(recipe, lr=replace(recipe.lr, peak=1e-2), method=replace(recipe.method, attack=PGD(Linf(0.1), 2)))
    how = unshaken.Workspace(tmp_path, quiet=True)
    robust = unshaken.robustify(small, images, workspace=how, recipe=recipe)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    x = images.floats(slice(0, 128))
    target = small(x).detach()

    def attacked(net: nn.Module) -> float:
        def loss(x: torch.Tensor) -> torch.Tensor:
            return (net(x) - target).square().sum(1)

        return float(loss(PGD(Linf(0.1), 10).maximise(loss, x, Key(0).on("cpu"))).detach().mean())

    assert attacked(robust) < 0.9 * attacked(small)
    again = unshaken.robustify(small, images, workspace=how, recipe=recipe)
    assert all(torch.equal(a, b) for a, b in zip(robust.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="held out: add --holdout 10"):
        unshaken.robustify(small, images, workspace=how, recipe=replace(recipe, keep=Best()))
    with pytest.raises(ValueError, match="learns from the images that you give"):
        unshaken.robustify(small, images, workspace=how, recipe=replace(recipe, extra=("digits",)))
    with pytest.raises(ValueError, match="one embedding for each image"):
        unshaken.robustify(nn.Conv2d(1, 1, 1), images, workspace=how)


def test_a_module_is_trained_by_every_choice_of_its_recipe(small, tmp_path, monkeypatch):
    """Weights are kept by held-out images, on which it is not trained, and a selector selects."""
    images = unshaken.DataSource("digits", limit=256).load("train")
    recipe = replace(robust_recipe("fare", "module", GREY, unshaken.DataSource("digits")), epochs=4, batch_size=32)
    recipe = replace(recipe, averaging=None, method=replace(recipe.method, attack=PGD(Linf(0.1), 1)))
    how = unshaken.Workspace(tmp_path, quiet=True)
    choices = {
        "plain": {}, "holdout": {"holdout": 4}, "keep": {"holdout": 4, "keep": Best(after=0.0)},
        "coreset": {"coreset": Random(fraction=0.5, warmup=1, every=1)},
        "replays": {"approximations": Approximations(replays=2)},
    }  # fmt: skip
    judged = []
    monkeypatch.setattr(
        "unshaken.runs.pretrain.scored", lambda images, *rest: judged.append(images) or scored(images, *rest)
    )
    nets = {
        name: unshaken.robustify(small, images, workspace=how, recipe=replace(recipe, **choice))
        for name, choice in choices.items()
    }
    weights = {name: torch.cat([p.detach().flatten() for p in net.parameters()]) for name, net in nets.items()}
    assert len({tuple(w.tolist()) for name, w in weights.items() if name != "keep"}) == 4
    held = hold_out(images, 4)[1]
    assert [len(one) for one in judged] == [len(held)]
    assert torch.equal(judged[0].pixels, held.pixels)
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*/run.json")]
    (kept,) = [record["kept"] for record in records if record.get("kept")]
    assert sorted(kept["scores"]) == ["1", "2", "3", "4"]
    assert kept["epoch"] == max(range(1, 5), key=lambda epoch: (kept["scores"][str(epoch)], epoch))
    assert torch.equal(weights["keep"], weights["holdout"]) == (kept["epoch"] == 4)


def test_a_selector_that_needs_gradients_of_a_head_is_refused_before_the_warm_up(small, tmp_path):
    images = unshaken.DataSource("digits", limit=64).load("train")
    for selector in (RCS(fraction=0.5, warmup=1, validation=0.1), GradientMatching(fraction=0.5, warmup=1)):
        recipe = replace(robust_recipe("lore", "module", GREY, unshaken.DataSource("digits")), coreset=selector)
        with pytest.raises(ValueError, match="LORE does not depend on the head"):
            unshaken.robustify(small, images, workspace=unshaken.Workspace(tmp_path, quiet=True), recipe=recipe)
    assert not [line for log in tmp_path.glob("*/log.jsonl") for line in log.read_text().splitlines()]


@pytest.mark.parametrize("objective", ["fare", "lore"])
def test_it_has_not_collapsed_while_clean_images_keep_their_embedding(objective, small, tmp_path):
    """At a rate of 0 attacked images stay further from the original than a constant answer, and the run ends."""
    images = unshaken.DataSource("digits", limit=64).load("train")
    recipe = robust_recipe(objective, "module", GREY, unshaken.DataSource("digits"))
    recipe = replace(
        recipe, method=replace(recipe.method, attack=PGD(Linf(0.5), 5)), epochs=2, batch_size=16, lr=Constant(0.0),
        guard=Guard(every=1, grace=0.0),
    )  # fmt: skip
    unshaken.robustify(small, images, workspace=unshaken.Workspace(tmp_path, quiet=True), recipe=recipe)
    (log,) = tmp_path.glob("*/log.jsonl")
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["robust"] > last["constant"] > last["drift"]
    assert last["rollbacks"] == 0


def test_lore_keeps_its_constraint_on_images_that_it_has_not_seen(small, tmp_path):
    """FARE breaks it at this rate, LORE does not."""
    source = unshaken.DataSource("digits", limit=256)
    images, held = source.load("train"), unshaken.DataSource("digits").load("test").floats(slice(0, 256))
    target, drifts = small(held).detach(), {}
    for objective in ("fare", "lore"):
        recipe = robust_recipe(objective, "module", GREY, source)
        attack = PGD(Linf(0.3), 1, rel_step_size=1.0)
        method = replace(recipe.method, attack=attack, **({"rho": 0.02} if objective == "lore" else {}))
        recipe = replace(
            recipe, method=method, epochs=12, batch_size=32, optimizer=AdamW(), averaging=None, guard=None,
            lr=replace(recipe.lr, peak=5e-3),
        )  # fmt: skip
        net = unshaken.robustify(small, images, workspace=unshaken.Workspace(tmp_path, quiet=True), recipe=recipe)
        change = (net(held) - target).square().sum(1) / target.square().sum(1)
        drifts[objective] = float(change.detach().mean())
    assert drifts["lore"] < 0.02 < drifts["fare"]
    assert LORE().rho == 0.1


def test_a_low_rank_branch_is_added_to_the_weights(tmp_path):
    torch.manual_seed(0)
    net = GREY.build().eval()
    x, plain = torch.rand(2, 1, 8, 8), copy.deepcopy(net)
    train_branch_only(with_lora(net, Key(0), rank=2))
    assert torch.equal(net(x), plain(x))
    learning = [name for name, p in net.named_parameters() if p.requires_grad]
    assert learning
    assert all(name.endswith((".A", ".B")) for name in learning)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(".B"):
                p += 0.1
    on = net(x).detach()
    merge_lora(net)
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(net(x), on, atol=1e-4)
    assert not torch.allclose(on, plain(x), atol=1e-2)


def test_drift_and_fidelity_are_their_definitions():
    rng = Key(0).on("cpu")
    gallery = torch.randn(20, 4, generator=rng)
    changed = gallery[:6] + 0.7 * torch.randn(6, 4, generator=rng)
    lost, relative = 0, []
    for k in range(6):
        d = [float((changed[k] - g).norm()) for g in gallery]
        lost += min(range(20), key=d.__getitem__) != k
        relative.append(d[k] / min(float((gallery[k] - g).norm()) for j, g in enumerate(gallery) if j != k))
    found = against_gallery(changed, gallery)
    assert (found.n, found.gallery, found.lost) == (6, 20, lost)
    assert found.relative == pytest.approx(sorted(relative)[2], rel=1e-4)  # torch's median is the lower one
    same = fidelity(gallery, gallery)
    assert (same["clean_drift"], same["cosine"], same["found_in_old_index"]) == (0.0, 1.0, 1.0)
    assert fidelity(gallery, 2 * gallery)["clean_drift"] == pytest.approx(1.0)


def test_the_probe_is_the_optimum_of_its_problem():
    """At the optimum the gradient of the penalised cross-entropy of standardised features is 0."""
    rng = Key(1).on("cpu")
    f = torch.randn(60, 5, generator=rng) * 3 + 1
    y = (f[:, 0] > 1).long() + (f[:, 1] > 1).long()
    layer = linear_probe(f, y, 3, decay=0.1)
    mean, std = f.mean(0).double(), f.std(0).double()
    weight = (layer.weight.double() * std).requires_grad_()
    bias = (layer.bias.double() + layer.weight.double() @ mean).detach().requires_grad_()
    logits = ((f.double() - mean) / std) @ weight.T + bias
    loss = nn.functional.cross_entropy(logits, y) + 0.1 * weight.square().sum()
    grads = torch.autograd.grad(loss, (weight, bias))
    assert all(float(g.abs().max()) < 1e-3 for g in grads)
    assert torch.allclose(layer(f).double(), logits, atol=1e-4)


def test_the_default_batch_and_side_fit_the_images(tmp_path, capsys, monkeypatch):
    """Few images get small batches; small images are not enlarged to the side of a convolutional encoder."""
    monkeypatch.chdir(tmp_path)
    made = {
        name: robust_recipe(name, "theirs", GREY, unshaken.DataSource("photos"), images=2000) for name in OBJECTIVES
    }
    assert {name: one.epochs for name, one in made.items()} == {"deacl": 8, "fare": 12, "profeat": 12, "lore": 12}
    assert [batch_for(count) for count in (100, 2000, 4000, 8000, 10**6, None)] == [16, 16, 32, 64, 64, 64]
    (tmp_path / "photos").mkdir()
    for k in range(8):
        Image.new("RGB", (70 + k, 90), (k, 0, 0)).save(tmp_path / "photos" / f"{k}.png")
    encoder = Backbone("resnet-small", image_size=96)
    save_encoder(tmp_path / "encoder.safetensors", encoder.build(), encoder, {})
    original = Original(tmp_path / "encoder.safetensors")
    recipe = recipe_for(original, unshaken.DataSource("photos"))
    assert (recipe.data.size, recipe.batch_size, recipe.method.gamma) == (64, 16, 4.0)
    assert "most images have 74 pixels, and are used at 64; the encoder's own side is 96 (--data.size 96)" in (
        capsys.readouterr().err
    )
    assert recipe_for(original, unshaken.DataSource("photos", size=96)).data.size == 96
    assert not capsys.readouterr().err
    vit = Backbone("vit-small", image_size=96)
    save_encoder(tmp_path / "encoder.safetensors", vit.build(), vit, {})
    assert recipe_for(original, unshaken.DataSource("photos")).data.size is None
