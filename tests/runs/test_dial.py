"""The dial: exact ends, weights between them, the curve of a known case, and the export at a setting."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unshaken import cli
from unshaken.base.rng import Key
from unshaken.data.images import Images
from unshaken.interop.dial import between, ends
from unshaken.interop.export import ExportOptions, export
from unshaken.interop.fingerprint import fingerprint
from unshaken.interop.import_options import ImportOptions
from unshaken.interop.imported_files import import_file
from unshaken.interop.load import LoadedModel, load_model
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_encoder, save_encoder
from unshaken.nets.dual_bn import merge_route, with_routes
from unshaken.nets.network import Encoder, seeded
from unshaken.nets.vit import ViT
from unshaken.runs.dial import class_means

GREY = Backbone("resnet-small", 8, channels=1, mean=(0.5,), std=(0.5,))


def shaken(net: Encoder, key: int) -> Encoder:
    rng = Key(key).on("cpu")
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.3 * torch.rand(tensor.shape, generator=rng))
    return net.eval()


def saved(path: Path, net: Encoder, backbone: Backbone = GREY) -> LoadedModel:
    about = {"pretrain": {"recipe": {"name": "acl"}}, "fingerprint": fingerprint(LoadedModel(net, backbone, {}))}
    save_encoder(path, net, backbone, about)
    return load_model(path)


def pixels() -> Tensor:
    return torch.rand(2, 1, 8, 8, generator=Key(5).on("cpu"))


def test_between_routes_the_ends_are_the_routes(tmp_path: Path):
    net = shaken(with_routes(seeded(GREY.build, Key(0)), ("clean", "adv")), 1)
    first, last = ends(saved(tmp_path / "a.safetensors", net), None)
    assert torch.equal(between(first, last, 0)(pixels()), merge_route(net, "clean").eval()(pixels()))
    assert torch.equal(between(first, last, 1)(pixels()), merge_route(net, "adv").eval()(pixels()))
    middle = between(first, last, 0.25).state_dict()
    for name, tensor in middle.items():
        a, b = first.state_dict()[name], last.state_dict()[name]
        assert torch.allclose(tensor.float(), 0.75 * a.float() + 0.25 * b.float(), atol=1e-6), name


def test_what_the_dial_needs(tmp_path: Path):
    model = saved(tmp_path / "a.safetensors", shaken(seeded(GREY.build, Key(0)), 1))
    with pytest.raises(ValueError, match="no clean and adv routes.*add --original FILE"):
        ends(model, None)
    other = saved(tmp_path / "b.safetensors", shaken(seeded(Backbone("resnet-small", 8).build, Key(0)), 1),
                  Backbone("resnet-small", 8))  # fmt: skip
    with pytest.raises(ValueError, match="different networks: they differ in"):
        between(*ends(model, str(tmp_path / "b.safetensors")), 0.5)
    assert other.kind == "encoder"
    with pytest.raises(ValueError, match="from 0, the original, to 1"):
        between(model.encoder, model.encoder, 1.5)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_an_export_at_a_setting_lies_between_the_file_and_the_robust_encoder(tmp_path: Path):
    backbone = Backbone("x", 16, variant=ViT(side=16, patch=8, width=64, depth=1, heads=2, hidden=64))
    state = backbone.build().backbone.state_dict()
    torch.save(state, tmp_path / "theirs.pt")
    how = ImportOptions(out=tmp_path / "run", layout="dino", heads=2)
    file = import_file(tmp_path / "theirs.pt", how).encoder
    encoder, known, about = load_encoder(file)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    save_encoder(tmp_path / "robust.safetensors", encoder, known, {"pretrain": {"teacher": about["pretrain"]}})
    options = ExportOptions("original", tmp_path / "out.pt", original=str(tmp_path / "theirs.pt"), dial=0.25)
    found = torch.load(export(tmp_path / "robust.safetensors", options), weights_only=True)
    assert list(found) == list(state)
    assert all(torch.allclose(found[name], state[name] + 0.25, atol=1e-6) for name in state)
    ours = ExportOptions("safetensors", tmp_path / "o.safetensors", original=str(tmp_path / "theirs.pt"), dial=0.0)
    back = load_encoder(export(tmp_path / "robust.safetensors", ours))[0].backbone.state_dict()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_class_means_are_those_of_the_definition():
    net = shaken(seeded(GREY.build, Key(0)), 1)
    x, label = torch.rand(6, 1, 8, 8, generator=Key(2).on("cpu")), [0, 1, 0, 1, 0, 1]
    images = Images.of((x * 255).byte().numpy(), label, name="six")
    found = class_means(net, images, 50, Key(0)).weight
    with torch.no_grad():
        unit = torch.nn.functional.normalize(net(images.floats()), dim=1)
    for k in (0, 1):
        mean = unit[torch.tensor(label) == k].mean(0)
        assert torch.allclose(found[k], mean / mean.norm(), atol=1e-5)


def test_the_command_draws_a_curve(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = shaken(with_routes(seeded(GREY.build, Key(0)), ("clean", "adv")), 1)
    saved(tmp_path / "a.safetensors", net)
    few = ["--limit", "12", "--attack.steps", "1", "--points", "0", "1", "--shots", "5"]
    assert cli.run(["dial", "a.safetensors", "--data", "digits", *few]) == 0
    points = json.loads((tmp_path / "a/dial-digits/dial.json").read_text())["points"]
    assert [each["dial"] for each in points] == [0, 1]
    assert all(each["robust"]["correct"] <= each["clean"]["correct"] <= 12 == each["clean"]["n"] for each in points)
    assert (tmp_path / "a/dial-digits/dial.svg").read_text().startswith("<svg")
    assert "12 test images" in capsys.readouterr().out
    assert cli.run(["export", "a.safetensors", "--dial", "0.5", "--route", "adv"]) == 2
