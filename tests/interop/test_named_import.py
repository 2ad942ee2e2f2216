"""timm/NAME and torchvision/NAME: the embedding that users take, any side, and nothing lost on the way."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from unshaken.interop import named_import
from unshaken.interop.export import ExportOptions, export
from unshaken.interop.import_options import ImportOptions
from unshaken.interop.named_import import import_timm_network, import_torchvision_network, vit_of_timm
from unshaken.nets.checkpoint import save_encoder
from unshaken.nets.network import Normalize
from unshaken.nets.timm_nets import timm_package

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 2}
PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def tiny(name: str, **how):
    torch.manual_seed(0)
    return timm_package().create_model(name, **TINY | how).eval()


@pytest.mark.parametrize(
    ("name", "how", "pool", "activation"),
    [
        ("vit_base_patch32_clip_quickgelu_224", {"num_classes": 24}, "projection", "quick_gelu"),
        ("vit_base_patch16_clip_224", {"num_classes": 24}, "projection", "gelu"),
        ("vit_base_patch16_siglip_224", {}, "attention", "gelu"),
        ("vit_small_patch14_reg4_dinov2", {}, "class", "gelu"),
        ("vit_base_patch16_224", {"num_classes": 0}, "class", "gelu"),
    ],
)
@torch.no_grad()
def test_a_vit_of_timm_has_the_embedding_of_its_family(name, how, pool, activation):
    net = tiny(name, **how)
    for parameter in (net.head.bias,) if pool == "projection" else ():
        parameter.zero_()
    found = vit_of_timm(net)
    assert (found.pool, found.activation, found.heads) == (pool, activation, 2)
    ours = found.build(16, 3)[0].eval()
    ours.load_state_dict({weight: net.state_dict()[weight] for weight in ours.state_dict()})
    assert torch.allclose(ours(PIXELS), net(PIXELS), atol=1e-5)


def test_networks_with_more_to_them_go_another_way():
    assert vit_of_timm(tiny("vit_base_patch16_224", qk_norm=True)) is None
    assert vit_of_timm(timm_package().create_model("test_resnet")) is None


def test_a_clip_of_timm_keeps_its_projection(monkeypatch):
    package, name = timm_package(), "vit_base_patch32_clip_quickgelu_224"
    net = tiny(name, num_classes=24)
    torch.nn.init.zeros_(net.head.bias)
    make = package.create_model
    monkeypatch.setattr(package, "create_model", lambda name, **how: make(name, **TINY | how | {"num_classes": 24}))
    monkeypatch.setattr(named_import, "published_classifier", lambda name: (torch.nn.Sequential(net, net), 16))
    found = import_timm_network(f"timm/{name}", ImportOptions(image_size=24))
    assert (found.encoder.features, found.backbone.image_size) == (24, 24)
    assert found.encoder(torch.rand(1, 3, 24, 24)).shape == (1, 24)
    assert "the projected class token" in found.report["embedding"]


def test_an_export_for_timm_loads_there(tmp_path, monkeypatch):
    name = "vit_tiny_patch16_224"
    net = timm_package().create_model(name, depth=1).eval()
    make = timm_package().create_model
    monkeypatch.setattr(timm_package(), "create_model", lambda name, **how: make(name, **{"depth": 1} | how))
    monkeypatch.setattr(named_import, "published_classifier", lambda name: (torch.nn.Sequential(net, net), 224))
    found = import_timm_network(f"timm/{name}", ImportOptions(image_size=32))
    save_encoder(tmp_path / "e.safetensors", found.encoder, found.backbone, found.metadata)
    file = export(tmp_path / "e.safetensors", ExportOptions("timm", tmp_path / "t.safetensors"))
    code = next(line for line in file.with_name("t.safetensors.md").read_text().splitlines() if "create_model" in line)
    assert code == f'net = timm.create_model("{name}", num_classes=0, global_pool="token", dynamic_img_size=True)'
    scope: dict = {"timm": timm_package()}
    exec(code, scope)
    theirs = scope["net"].eval()
    theirs.load_state_dict(load_file(file), strict=True)
    x = torch.rand(1, 3, 32, 32)
    assert torch.allclose(theirs(found.encoder.normalize(x)), found.encoder(x), atol=1e-5)


def test_torchvision_is_read_by_name(monkeypatch):
    timm_package()
    from torchvision.models import VisionTransformer

    net = VisionTransformer(16, 8, 1, 2, 64, 64, num_classes=5).eval()
    whole = torch.nn.Sequential(Normalize((0.1, 0.2, 0.3), (1.0, 1.0, 2.0)), net)
    monkeypatch.setattr(named_import, "published_classifier", lambda name: (whole, 16))
    found = import_torchvision_network("torchvision/vit_b_16", ImportOptions(heads=2))
    assert found.backbone.mean == (0.1, 0.2, 0.3)
    assert found.metadata["pretrain"]["layout"] == "vit-torchvision"
    assert found.encoder(PIXELS).shape == (2, 64)
