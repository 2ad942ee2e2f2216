"""What is exported gives the same answers elsewhere, loaded by the very lines that its page shows."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from unshaken.base.json_files import write_json
from unshaken.base.packed_bits import pack_bits
from unshaken.base.rng import Key
from unshaken.commands.interop import export_
from unshaken.interop import export as exporting
from unshaken.interop.export import ExportOptions, export
from unshaken.interop.fingerprint import verify_fingerprint
from unshaken.interop.load import file_in, load_model
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import digest, load_encoder, save_classifier, save_encoder
from unshaken.nets.dual_bn import set_route, with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder, Network, seeded
from unshaken.nets.torchvision_ops import declare_operators
from unshaken.runs.load import results_in_run
from variants import variants

ORIGIN = {"pretrain": {"recipe": {"name": "acl", "data": {"name": "cifar10"}, "seed": 3}}}
NAMES = ("cat", "dog", "é")
SMALL = Backbone("resnet-small", 32)


def needs(*packages: str) -> pytest.MarkDecorator:
    lacking = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"{', '.join(lacking)} not installed")


def shaken(net: nn.Module) -> nn.Module:
    """Away from initial values, differently in each route."""
    rng = Key("w").on("cpu")
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and (tensor.ndim == 1 or name == "weight"):
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=rng))
    return net.eval()


def encoder(backbone: Backbone, routes: tuple[str, ...] = ("clean", "adv")) -> Encoder:
    net = seeded(backbone.build, Key(0))
    return shaken(with_routes(net, routes) if routes else net)


def pixels(backbone: Backbone) -> Tensor:
    shape = (3, backbone.channels, backbone.image_size, backbone.image_size)
    return torch.rand(shape, generator=Key(1).on("cpu"))


def an_encoder(path: Path, backbone: Backbone, route: str | None = "adv") -> Tensor:
    """A file of it; returns what it answers to `pixels`."""
    net = encoder(backbone, ("clean", "adv") if route else ())
    save_encoder(path, net, backbone, ORIGIN)
    set_route(net, route or "")
    with torch.no_grad():
        return net(pixels(backbone))


def a_classifier(path: Path, backbone: Backbone) -> Tensor:
    net = encoder(backbone, ())
    head = shaken(zero_classifier(net.features, 3))
    whole = Network(net, head).eval()
    tuned = {"finetune": {"recipe": {"method": {"type": "SLF"}, "data": {"name": "cifar10"}, "seed": 1}}}
    save_classifier(path, whole, backbone, NAMES, ORIGIN | tuned)
    with torch.no_grad():
        return whole(pixels(backbone), "adv")


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def run_block(code: str, x: Tensor, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.chdir(folder)
    declare_operators()  # where torchvision's own extension does not load
    scope: dict[str, Any] = {"pixels": x}
    with torch.no_grad():
        exec(code, scope)
    return torch.as_tensor(scope["out"])


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() < 1e-5 * expected.abs().max())


GREY = Backbone("resnet18", 96, 1, (0.5,), (0.25,))
THEIRS = {
    "a stem with padding 2": (Backbone("resnet18", 32, padding=2), {"torchvision": 1, "safetensors": 2}),
    "grey": (GREY, {"torchvision": 1, "timm": 1}),
    "bottlenecks": (Backbone("resnet50", 96), {"timm": 1}),
}
"""Networks that others have too, in which forms, and how many ways to load each its page shows."""


@pytest.mark.extra
@needs("torchvision", "timm")
@pytest.mark.parametrize("network", THEIRS)
def test_the_page_s_own_lines_give_the_same_features(network, tmp_path, monkeypatch):
    backbone, forms = THEIRS[network]
    expected = an_encoder(tmp_path / "encoder.safetensors", backbone)
    for form, ways in forms.items():
        export(tmp_path, ExportOptions(form, tmp_path / f"{form}.safetensors"))
        shown = blocks(tmp_path / f"{form}.safetensors.md")
        assert len(shown) == ways
        for code in shown:
            assert close(run_block(code, pixels(backbone), tmp_path, monkeypatch), expected)


@needs("torchvision", "timm")
def test_the_page_s_own_lines_give_the_same_logits(tmp_path, monkeypatch):
    backbone = Backbone("resnet18", 32)
    expected = a_classifier(tmp_path / "classifier.safetensors", backbone)
    for form in ("torchvision", "timm", "hub"):
        out = tmp_path / ("hub" if form == "hub" else f"{form}.safetensors")
        export(tmp_path / "classifier.safetensors", ExportOptions(form, out))
        page = out / "README.md" if form == "hub" else out.with_name(f"{out.name}.md")
        assert "cat, dog, é" in page.read_text()
        for code in blocks(page):
            assert close(run_block(code, pixels(backbone), page.parent, monkeypatch), expected)


@needs("timm", "torchvision")
@pytest.mark.parametrize(
    "name",
    variants(["vit-small", "timm/resnet10t", "timm/vit_tiny_patch16_224"], ["timm/resnet10t"]),
)
def test_networks_of_timm(name, tmp_path, monkeypatch):
    backbone, plain = Backbone(name, 32), "vit" in name
    expected = an_encoder(tmp_path / "encoder.safetensors", backbone, None if plain else "adv")
    export(tmp_path, ExportOptions("timm", tmp_path / "theirs.safetensors"))
    (code,) = blocks(tmp_path / "theirs.safetensors.md")
    assert close(run_block(code, pixels(backbone), tmp_path, monkeypatch), expected)
    with pytest.raises(ValueError, match="torchvision has no"):
        export(tmp_path, ExportOptions("torchvision", tmp_path / "x.safetensors"))


def test_normalisation_is_beside_weights_that_cannot_hold_it(tmp_path):
    """Folded into the first convolution it would be wrong wherever zeros are padded."""
    an_encoder(tmp_path / "encoder.safetensors", GREY)
    export(tmp_path, ExportOptions("torchvision", tmp_path / "theirs.safetensors"))
    from safetensors import safe_open

    with safe_open(tmp_path / "theirs.safetensors", "pt") as file:
        header = file.metadata()
        assert torch.equal(
            file.get_tensor("conv1.weight"), load_encoder(tmp_path / "encoder.safetensors")[0].backbone.conv1.weight
        )
    assert (json.loads(header["mean"]), json.loads(header["std"])) == ([0.5], [0.25])
    assert "must be normalised before" in (tmp_path / "theirs.safetensors.md").read_text()


PADDED = Backbone("resnet-small", 32, padding=2)
ONNX = needs("onnx", "onnxscript", "onnxruntime")


@ONNX
@pytest.mark.parametrize(
    "backbone",
    variants([PADDED, Backbone("wrn-10-1", 32)], [PADDED]),
    ids=lambda b: b.name,
)
def test_onnx_gives_the_same_features(backbone, tmp_path, monkeypatch):
    expected = an_encoder(tmp_path / "encoder.safetensors", backbone)
    export(tmp_path, ExportOptions("onnx", tmp_path / "net.onnx"))
    (code,) = blocks(tmp_path / "net.onnx.md")
    x = pixels(backbone)
    assert close(run_block(code, x, tmp_path, monkeypatch), expected)
    assert close(run_block(code, x[:1], tmp_path, monkeypatch), expected[:1])  # batches of any size
    assert close(run_block(code, x.repeat(3, 1, 1, 1), tmp_path, monkeypatch), expected.repeat(3, 1))


@pytest.mark.extra
@ONNX
def test_onnx_gives_the_same_logits(tmp_path, monkeypatch):
    expected = a_classifier(tmp_path / "classifier.safetensors", SMALL)
    export(tmp_path, ExportOptions("onnx", tmp_path / "net.onnx"))
    (code,) = blocks(tmp_path / "net.onnx.md")
    assert close(run_block(code, pixels(SMALL), tmp_path, monkeypatch), expected)


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx and onnxscript: pip install 'unshaken\[onnx\]'"):
        export(tmp_path, ExportOptions("onnx", tmp_path / "net.onnx"))


@pytest.mark.parametrize("route", [None, "clean", "adv"])
def test_one_file_with_one_route(route, tmp_path, monkeypatch):
    expected = an_encoder(tmp_path / "encoder.safetensors", SMALL, route or "adv")
    out = tmp_path / "one.safetensors"
    export(tmp_path, ExportOptions("safetensors", out, route))
    net, backbone, about = load_encoder(out)
    assert about["routes"] == []
    assert about["pretrain"] == ORIGIN["pretrain"]
    assert about["exported"] == {"from": digest(load_model(tmp_path).net), "route": route or "adv"}
    with torch.no_grad():
        assert torch.equal(net.eval()(pixels(backbone)), expected)
    assert verify_fingerprint(out).holds
    (code,) = blocks(tmp_path / "one.safetensors.md")
    assert torch.equal(run_block(code, pixels(SMALL), tmp_path, monkeypatch), expected)


def test_a_folder_for_a_hub_comes_back(tmp_path):
    expected = an_encoder(tmp_path / "encoder.safetensors", SMALL)
    folder = export(tmp_path, ExportOptions("hub", tmp_path / "hub", license="mit"))
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert file_in(folder) == folder / "model.safetensors"
    with torch.no_grad():
        assert torch.equal(load_model(folder).net(pixels(SMALL)), expected)
    assert verify_fingerprint(folder).holds
    config = json.loads((folder / "config.json").read_text())
    assert Backbone(**config["backbone"]).name == "resnet-small"
    page = (folder / "README.md").read_text()
    assert page.startswith("---\nlicense: mit\nlibrary_name: unshaken\npipeline_tag: image-feature-extraction\n")
    export(tmp_path, ExportOptions("hub", tmp_path / "hub"))  # again into its own folder


@needs("yaml")
def test_the_front_matter_is_yaml(tmp_path):
    import yaml

    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    folder = export(tmp_path, ExportOptions("hub", tmp_path / "hub"))
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["license"] == "unknown"
    assert "acl" in front["tags"]


@needs("huggingface_hub")
def test_a_hub_is_asked_for_a_private_repository_and_given_the_folder(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    asked = []

    class Hub:
        def create_repo(self, repo: str, **options: Any) -> None:
            asked.append((repo, options))

        def upload_folder(self, repo_id: str, folder_path: str, ignore_patterns: list[str]) -> None:
            asked.append((repo_id, sorted(file.name for file in Path(folder_path).iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    export_([str(tmp_path), "--to", "hub", "--out", str(tmp_path / "hub"), "--repo", "me/mine"])
    files = ["README.md", "config.json", "model.safetensors"]
    assert asked == [("me/mine", {"private": True, "exist_ok": True}), ("me/mine", files)]
    assert "me/mine" in capsys.readouterr().out


@needs("huggingface_hub")
def test_a_hub_without_a_network_is_one_line(tmp_path, monkeypatch):
    """Each version of its package raises something else."""
    import huggingface_hub

    class Hub:
        def create_repo(self, repo: str, **options: Any) -> None:
            raise RuntimeError("Name or service not known\nand eighty-three lines more")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    with pytest.raises(ValueError, match="could not be uploaded to .*: Name or service not known$"):
        export(tmp_path, ExportOptions("hub", tmp_path / "hub", repo="me/mine"))


def test_a_hub_without_its_package(tmp_path, monkeypatch):
    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'unshaken\[hub\]'"):
        export(tmp_path, ExportOptions("hub", tmp_path / "hub", repo="me/mine"))


def test_the_page_says_what_was_measured(tmp_path):
    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    bits = pack_bits(numpy.arange(10) < 5)
    score = {"percent": 50.0, "correct": 5, "n": 10, "interval95": [23.0, 77.0], "bits": bits}
    evaluation = {"attack": {"type": "PGD", "steps": 20, "ball": {"type": "Linf", "eps": 0.1}}}
    result = {
        "method": "acl",
        "mode": "slf",
        "data": {"name": "cifar10", "split": "test", "n": 10, "digest": "d"},
        "standard": score,
        "robust": score,
        "seeds": {"pretrain": 3, "finetune": 1, "evaluation": 1},
        "seconds": {"pretrain": None},
        "weights": "w",
        "world": {},
        "evaluation": evaluation,
        "pretrain": {"recipe": {}},
        "finetune": {"recipe": {}},
    }
    write_json(tmp_path / "slf-cifar10-0" / "result.json", result)
    export_([str(tmp_path), "--out", str(tmp_path / "one.safetensors")])
    page = (tmp_path / "one.safetensors.md").read_text()
    assert "| acl | SLF | cifar10 | 10 | 50.00 % (5 of 10) | 50.00 % (5 of 10) | {type: PGD, steps: 20," in page
    for fact in (
        "acl on cifar10, seed 3",
        "[0, 1]",
        "only those of the route 'adv'",
        digest(load_model(tmp_path / "one.safetensors").net),
    ):
        assert fact in page
    assert results_in_run(tmp_path / "one.safetensors") == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"route": "pgd"}, "no route 'pgd'; it has clean, adv"),
        ({"to": "timm"}, "timm has no resnet-small"),
        ({"to": "torchvision"}, "torchvision has no resnet-small"),
        ({"to": "onnx", "out": "x.pt"}, "ends in .onnx, and --out x.pt does not"),
        ({"out": "x.pt"}, "ends in .safetensors"),
        ({"out": "encoder.safetensors"}, "is the file to be exported"),
        ({"to": "hub", "out": "."}, "needs a new folder"),
    ],
)
def test_mistakes(how: dict[str, Any], words: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    with pytest.raises(ValueError, match=words) as caught:
        export(tmp_path, ExportOptions(**how | ({"out": Path(how["out"])} if "out" in how else {})))
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.safetensors"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"to": "safetensors", "out": "other.safetensors"}, "exists already"),
        ({"to": "onnx", "out": "README.onnx"}, "its model card README.onnx.md exists already"),
        ({"to": "hub", "out": "."}, "exists already"),
    ],
)
def test_nothing_of_others_is_written_over(how: dict[str, str], words: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    an_encoder(tmp_path / "encoder.safetensors", SMALL)
    theirs = {"other.safetensors": "weights", "README.onnx.md": "mine", "config.json": '{"model_type": "bert"}'}
    for name, text in theirs.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        export(tmp_path / "encoder.safetensors", ExportOptions(**how | {"out": Path(how["out"])}))
    assert all((tmp_path / name).read_text() == text for name, text in theirs.items())


def test_routes_and_repositories_that_make_no_sense(tmp_path):
    an_encoder(tmp_path / "plain.safetensors", SMALL, None)
    with pytest.raises(ValueError, match="has no routes"):
        export(tmp_path / "plain.safetensors", ExportOptions(route="adv", out=tmp_path / "x.safetensors"))
    for wrong in ({"repo": "me/mine"}, {"repo": "mine", "to": "hub"}):
        with pytest.raises(ValueError, match="--repo needs OWNER/NAME and --to hub, not"):
            ExportOptions(**wrong)
