"""EfficientNet-Lite and torchvision's MobileNetV2: read exactly, and written back under the same names."""

from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unshaken.interop.import_checkpoint import import_checkpoint
from unshaken.interop.import_options import ImportOptions
from unshaken.interop.same_keys import same_keys, write_same_keys
from unshaken.layouts.foreign import read
from unshaken.layouts.mobile_names import LITE_BLOCK, LITE_OUTSIDE
from unshaken.nets.timm_nets import timm_package

timm = timm_package() if find_spec("timm") else pytest.skip("needs timm", allow_module_level=True)


def lite_names(ours: dict[str, torch.Tensor]) -> dict[str, str]:
    """The names of EfficientNet-Lite's own code for timm's, written down the other way round."""
    blocks = list(dict.fromkeys(name.rsplit(".", 2)[0] for name in ours if name.startswith("blocks.")))
    blocks = [block for block in blocks if block.count(".") == 2]
    outside = {new: old for old, new in LITE_OUTSIDE.items()}
    found = {}
    for name in ours:
        module, leaf = name.rsplit(".", 1)
        if module in outside:
            found[name] = f"{outside[module]}.{leaf}"
        else:
            block, part = module.rsplit(".", 1)
            table = LITE_BLOCK[f"{block}.conv_pwl.weight" in ours]
            found[name] = f"_blocks.{blocks.index(block)}.{next(k for k, v in table.items() if v == part)}.{leaf}"
    return found


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[torch.nn.Module, OrderedDict[str, torch.Tensor]]]:
    """A network of timm by layout, and its weights by the other names, in half precision where a test asks for it."""
    torch.manual_seed(0)
    lite = timm.create_model("tf_efficientnet_lite0").eval()
    names = lite_names(lite.state_dict())
    from torchvision.models import mobilenet_v2

    theirs, twin = mobilenet_v2().eval(), timm.create_model("mobilenetv2_100").eval()
    twin.load_state_dict(OrderedDict(zip(twin.state_dict(), theirs.state_dict().values(), strict=True)))
    return {
        "efficientnet-lite": (lite, OrderedDict((names[k], v) for k, v in lite.state_dict().items())),
        "mobilenetv2": (twin, theirs.state_dict()),
    }


@pytest.mark.parametrize("layout", ["efficientnet-lite", "mobilenetv2"])
def test_every_weight_finds_its_place_and_its_way_back(layout, networks, tmp_path: Path):
    net, weights = networks[layout]
    file = tmp_path / "theirs.pth"
    torch.save({"state_dict": OrderedDict((f"module.{k}", v) for k, v in weights.items()), "epoch": 3}, file)
    found = import_checkpoint(read(file))
    assert found.metadata["pretrain"]["layout"] == layout
    x = torch.rand(2, 3, 64, 64)
    normalised = (x - torch.tensor(found.backbone.mean).view(3, 1, 1)) / torch.tensor(found.backbone.std).view(3, 1, 1)
    with torch.no_grad():
        assert torch.equal(found.encoder(x), net.forward_head(net.forward_features(normalised), pre_logits=True))
        assert torch.equal(found.head(found.encoder(x)), net(normalised))
    back = same_keys(file, found.encoder, ImportOptions(), found.metadata["pretrain"]["file"]["sha256"])
    assert list(back) == [f"module.{name}" for name in weights]
    assert all(torch.equal(back[f"module.{name}"], tensor) for name, tensor in weights.items())
    assert all(back[f"module.{name}"].dtype == tensor.dtype for name, tensor in weights.items())
    write_same_keys(file, tmp_path / "out.pth", found.encoder, ImportOptions())
    assert list(torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]) == list(back)


def test_trained_weights_go_into_the_file_and_the_classifier_stays(networks, tmp_path: Path):
    _, weights = networks["mobilenetv2"]
    file = tmp_path / "half.safetensors"
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(half, file, {"format": "pt", "by": "them"})
    found = import_checkpoint(read(file))
    with torch.no_grad():
        for p in found.encoder.parameters():
            p += 1
    write_same_keys(file, tmp_path / "out.safetensors", found.encoder, ImportOptions())
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == half.keys()
    changed = {name for name in half if not torch.equal(written[name], half[name])}
    assert changed == {n for n in half if n.startswith("features") and n.endswith(("weight", "bias"))}
    assert torch.equal(written["features.0.0.weight"], (half["features.0.0.weight"].float() + 1).half())
    assert all(written[name].dtype == half[name].dtype for name in half)
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match="not the file that the encoder came from"):
        same_keys(file, found.encoder, ImportOptions(), found.metadata["pretrain"]["file"]["sha256"])


def test_a_lacking_weight_is_no_network(networks, tmp_path: Path):
    weights = dict(networks["mobilenetv2"][1])
    del weights["features.5.conv.1.0.weight"]
    torch.save(weights, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="no layout that can be read"):
        import_checkpoint(read(tmp_path / "part.pth"))
