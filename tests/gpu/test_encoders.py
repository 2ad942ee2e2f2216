"""Encoders of others on a device: made robust, checked without labels, judged zero-shot, and turned by the dial."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from machine import KEY, classes_of
from torch import nn

import unshaken
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L1, Linf
from unshaken.attacks.base import Model
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.evaluation.class_embeddings import ClassEmbeddings
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.zero_shot import ZeroShot
from unshaken.interop.import_options import ImportOptions
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import save_encoder
from unshaken.nets.network import Encoder, Normalize, seeded
from unshaken.recipes.robust import OBJECTIVES
from unshaken.runs.checkup import Checkup, checkup
from unshaken.runs.dial import Dial, dial
from unshaken.runs.robustify import measure, original_of, recipe_for, robustify_from
from unshaken.train.averaging import EMA

GREY = Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,))
FACTS = ImportOptions(mean=(0.5,), std=(0.5,), image_size=8)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """A checkpoint under torchvision's names, untrained, with statistics of its own."""
    net = seeded(GREY.build, KEY / "theirs").train()
    net(unshaken.DataSource("digits").load("train").floats(slice(0, 256)))
    file = tmp_path_factory.mktemp("theirs") / "theirs.pth"
    torch.save(net.backbone.state_dict(), file)
    return file


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_encoder_is_made_robust_and_measured_as_on_the_cpu(device, objective, theirs, tmp_path, capsys):
    """The whole command on the device, then its measures again on the CPU from the same weights."""
    how = unshaken.Workspace(tmp_path, runtime=Runtime(device=device), quiet=True)
    original = original_of(theirs, how, replace(FACTS, out=tmp_path / "original"))
    recipe = recipe_for(original, unshaken.DataSource("digits", limit=96), objective)
    recipe = replace(recipe, epochs=2, batch_size=32, averaging=EMA() if objective == "deacl" else None)
    run = robustify_from(original, recipe, how, test=32)
    before, after = (torch.load(file, weights_only=True) for file in (theirs, run / "theirs-robust.pth"))
    assert list(before) == list(after)
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    assert all(tensor.device.type == "cpu" and tensor.double().isfinite().all() for tensor in after.values())
    found = json.loads((run / "robustness.json").read_text())
    again = measure(run, original, recipe, unshaken.Workspace(tmp_path, runtime=Runtime(device="cpu"), quiet=True), 32)
    for name, value in again.fidelity.items():
        assert value == pytest.approx(found["fidelity"][name], rel=0.02, abs=0.02), name
    assert {score["old_probe"]["robust"]["n"] for score in found["accuracy"].values()} == {32}


def test_a_module_of_the_users_own(device, tmp_path):
    """A copy is trained on the device, and comes back to where the module is."""
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = unshaken.DataSource("digits", limit=64).load("train")
    robust = unshaken.robustify(net, images, "fare", unshaken.Workspace(tmp_path, Runtime(device=device), quiet=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert {tensor.device.type for tensor in robust.state_dict().values()} == {"cpu"}
    assert not torch.equal(robust(images.floats()), net(images.floats()))


def test_a_checkup_is_the_cpus(device, tmp_path):
    file = tmp_path / "a.safetensors"
    save_encoder(file, seeded(GREY.build, Key(0)).eval(), GREY, {"pretrain": {}})
    how = Checkup(64, 32, (2 / 255,), 5, ("fog", "jpeg_compression"), severities=(1,))
    reports = [
        checkup(str(file), classes_of(8, 1, 64), how, runtime=Runtime(device=where), quiet=True).report
        for where in ("cpu", device)
    ]
    for expected, found in zip(*(report["changes"] for report in reports), strict=True):
        assert expected["change"] == found["change"]
        assert abs(expected["lost"]["count"] - found["lost"]["count"]) <= 2
        assert found["cosine"]["median"] == pytest.approx(expected["cosine"]["median"], rel=0.1, abs=1e-4)


def test_zero_shot_robust_accuracy_is_the_closed_form(device):
    """f(x) = A x, two classes: robust are the images with |wᵀ(x − ½)| > ε ‖w‖₁, w = Aᵀ(t₀ − t₁)."""
    layer = nn.Linear(48, 6, bias=False)
    layer.weight.data = torch.randn(6, 48, generator=Key("a").on("cpu"))
    net = nn.Sequential(nn.Flatten(), layer)
    encoder = Encoder(Normalize((0.5,) * 3, (1.0,) * 3), net, 6).requires_grad_(False)
    t = nn.functional.normalize(torch.randn(2, 6, generator=Key("t").on("cpu")), dim=1)
    x = 0.4 + 0.2 * torch.rand(200, 3, 4, 4, generator=Key("x").on("cpu"))
    w, eps = (t[0] - t[1]) @ layer.weight, 0.006
    score = (x - 0.5).flatten(1) @ w
    margin = score.abs() - eps * w.abs().sum()
    clear = margin.abs() > 1e-3 * score.abs().max()
    model = Model(ZeroShot(encoder, ClassEmbeddings(t)).to(device))
    x, y = x.to(device), (score < 0).long().to(device)
    x_adv = AutoAttack(Linf(eps), "apgd", steps=30)(model, x, y, Key(0))
    withstood = (x_adv == x).flatten(1).all(1).cpu()
    assert 20 < int((margin > 0).sum()) < 180
    assert torch.equal(withstood[clear], (margin > 0)[clear])


def test_apgd_in_the_l1_ball_stays_in_it(device):
    """A linear classifier: the largest change of its margin is ε ‖w‖∞, in one pixel if the range allows it."""
    layer = nn.Linear(64, 2).requires_grad_(False)
    layer.weight.data = torch.randn(2, 64, generator=Key("w").on("cpu"))
    layer.bias.data.zero_()
    model = Model(nn.Sequential(nn.Flatten(), layer).to(device))
    x = torch.rand(64, 1, 8, 8, generator=Key("x").on("cpu")).to(device)
    y = layer(x.flatten(1)).argmax(1)
    x_adv = AutoAttack(L1(2.0), "apgd", steps=20)(model, x, y, Key(0))
    change = (x_adv - x).abs().flatten(1).sum(1)
    fell = layer(x_adv.flatten(1)).argmax(1) != y
    assert 0 < int(fell.sum()) < 64
    assert float(change.max()) <= 2 + 1e-4
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1


def test_the_dial_is_the_cpus(device, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for file, key in ((first, 0), (second, 1)):
        save_encoder(file, seeded(GREY.build, Key(key)).eval(), GREY, {"pretrain": {}})
    how, evaluation = Dial((0.0, 0.5, 1.0), str(first), shots=10), Evaluation(PGD(Linf(0.05), 3), limit=32)
    curves = [
        dial(second, unshaken.DataSource("digits"), how, evaluation, Runtime(device=where), quiet=True)
        for where in ("cpu", device)
    ]
    for expected, found in zip(*curves, strict=True):
        assert abs(expected["clean"]["correct"] - found["clean"]["correct"]) <= 1
        assert abs(expected["robust"]["correct"] - found["robust"]["correct"]) <= 3
