"""timm's networks: routes through their norms, sides and channels, what is said without timm, how it is imported."""

import copy
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import numpy.random
import pytest
import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.nets import torchvision_ops
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import RoutedBatchNorm, merge_route, routes_of, set_route, with_routes
from unshaken.nets.network import Encoder, seeded
from unshaken.nets.timm_nets import patch_of, published_classifier, timm_config, timm_net, timm_package, vit_small

ROUTES = ("clean", "adv")
NORMED = [  # a batch norm of timm's own has its activation inside: all but the ResNets have those
    Backbone("timm/test_resnet"),
    Backbone("timm/resnet10t"),
    Backbone("timm/test_byobnet"),
    Backbone("timm/test_efficientnet"),
    Backbone("wrn-10-1"),
    Backbone("resnet-small", padding=2),
]
PLAIN = [Backbone("vit-small"), Backbone("timm/test_vit"), Backbone("timm/test_convnext")]


def each(backbones: list[Backbone]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("backbone", backbones, ids=lambda backbone: backbone.name)


def images(side: int, seed: int = 0) -> Tensor:
    return torch.rand(4, 3, side, side, generator=Key(seed).on("cpu"))


def through(net: nn.Module, route: str, x: Tensor) -> Tensor:
    set_route(net, route)
    return net(x)


def state(net: nn.Module, route: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if f"routes.{route}." in name}


def alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def diverged(backbone: Backbone) -> Encoder:
    """Routed, with routes that differ in statistics and in weights."""
    net = with_routes(seeded(backbone.build, Key(0)), ROUTES).train()
    for route, shift in (("clean", 0.0), ("adv", 0.5)):
        through(net, route, images(backbone.image_size) + shift)
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, RoutedBatchNorm)):
            norm.routes["adv"].bias += 0.5
    return net


@each(NORMED)
def test_routes_are_separate(backbone):
    net, x = diverged(backbone), images(backbone.image_size, 1)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert len(norms) == 2 * sum(isinstance(m, RoutedBatchNorm) for m in net.modules())
    for used, other in (ROUTES, ROUTES[::-1]):
        before = {route: state(net, route) for route in ROUTES}
        through(net, used, x).square().sum().backward()
        assert alike(state(net, other), before[other])
        moved = [name for name, value in state(net, used).items() if not torch.equal(value, before[used][name])]
        assert len(moved) == 3 * len(norms) / 2  # mean, variance and count of every norm
        assert not [n for n, p in net.named_parameters() if f"routes.{other}." in n and p.grad is not None]
        assert [n for n, p in net.named_parameters() if f"routes.{used}." in n and p.grad is None] == []
        net.zero_grad(set_to_none=True)


@each(NORMED)
def test_merged_is_the_plain_network_through_one_route(backbone):
    net, x = diverged(backbone), images(backbone.image_size, 1)
    outputs = []
    for training in (True, False):
        for route in ROUTES:
            twin = copy.deepcopy(net).train(training)
            lone = merge_route(twin, route)
            outputs.append(lone(x))
            assert torch.equal(outputs[-1], through(twin, route, x))
            assert routes_of(lone) == ()
            assert lone.state_dict().keys() == backbone_names(backbone)
    assert not torch.equal(outputs[2], outputs[3])


def backbone_names(backbone: Backbone) -> set[str]:
    with torch.device("meta"):
        return backbone.build().state_dict().keys()


@each(PLAIN)
def test_a_network_without_batch_norms_has_one_way(backbone):
    net, x = seeded(backbone.build, Key(0)), images(backbone.image_size)
    plain = copy.deepcopy(net).eval()
    assert with_routes(net, ROUTES) is net
    assert routes_of(net) == ()
    net.eval()
    with torch.no_grad():
        expected = plain(x)
        assert all(torch.equal(through(net, route, x), expected) for route in ROUTES)
        assert torch.equal(merge_route(net, "adv")(x), expected)


@pytest.mark.parametrize("stem", [32, 96, 224])
def test_vit_small(stem):
    with torch.device("meta"):
        net, features = vit_small(stem, channels=1)
        assert net(torch.empty(2, 1, stem, stem)).shape == (2, features)
    patch, d = patch_of(stem), 384
    assert stem % patch == 0
    assert net.pos_embed.shape == (1, (stem // patch) ** 2 + 1, d)
    assert (net.patch_embed.proj.weight.shape, net.patch_embed.proj.stride) == ((d, 1, patch, patch), (patch, patch))
    assert len(net.blocks) == 12
    assert {block.attn.num_heads for block in net.blocks} == {6}
    block = 2 * 2 * d + (d * 3 * d + 3 * d) + (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d)
    count = 12 * block + 2 * d + d + net.pos_embed.numel() + patch**2 * d + d
    assert sum(p.numel() for p in net.parameters()) == count


def test_its_patches_are_an_eighth_of_the_side_up_to_16_pixels():
    assert {side: patch_of(side) for side in (32, 64, 96, 128, 224, 384)} == {
        32: 4,
        64: 8,
        96: 12,
        128: 16,
        224: 16,
        384: 16,
    }
    with pytest.raises(ValueError, match="vit-small reads images above 128 pixels in multiples of 16, not 200"):
        patch_of(200)


def test_features_are_those_of_the_class_token():
    net = seeded(lambda: vit_small(32)[0], Key(0)).eval()
    with torch.no_grad():
        x = images(32)[:1]
        assert torch.allclose(net(x), net.forward_features(x)[:, 0], atol=1e-6)


def test_the_side_is_passed_on_where_it_is_part_of_the_network():
    with torch.device("meta"):
        assert timm_net("vit_tiny_patch16_224", 96)[0].pos_embed.shape == (1, 6 * 6 + 1, 192)


def test_otherwise_the_network_is_left_as_it_is():
    with torch.device("meta"):
        net, features = timm_net("resnet18", 32, channels=1)
    assert features == 512
    assert net.conv1.weight.shape == (64, 1, 7, 7)
    assert isinstance(net.maxpool, nn.MaxPool2d)
    assert isinstance(net.fc, nn.Identity)


def test_another_type_error_is_not_about_the_side(monkeypatch: pytest.MonkeyPatch):
    def create(*_: object, **given: object) -> nn.Module:
        if "img_size" in given:
            raise TypeError("something else")
        return nn.Identity()

    monkeypatch.setattr(timm_package(), "create_model", create)
    with pytest.raises(TypeError, match="something else"):
        timm_net("resnet18", 32)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("restnet18", r"; did you mean resnet18\?"),
        ("resnet18.a1_in1", r"; did you mean resnet18.a1_in1k\?"),
        ("qqqqqqqqqqqqqqqqqqq", ""),
        ("hf-hub:timm/resnet18", ""),  # would ask the network
        ("", ""),
    ],
)
def test_a_name_that_timm_does_not_have(name, hint):
    with pytest.raises(ValueError, match=f"^timm has no network '{name}'{hint}") as caught:
        timm_net(name, 32)
    assert "\n" not in str(caught.value)


def test_what_timm_notes():
    assert timm_config("resnet18.a3_in1k").input_size == (3, 160, 160)


def test_without_timm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for backbone in (Backbone("vit-small"), Backbone("timm/resnet18")):
        with pytest.raises(ValueError, match=r"^this network needs timm: pip install 'unshaken\[timm\]'$"):
            backbone.build()
    assert Backbone("wrn-10-1").build().features == 64


def test_a_timm_that_is_broken_says_so_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "timm.py").write_text("import a_dependency_of_its_own")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_dependency_of_its_own"):
        timm_package()


def fresh(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


@pytest.mark.extra
def test_torchvision_and_timm_are_imported_after_their_operators_are_declared():
    done = fresh(
        "import sys\n"
        "from unshaken.nets.backbone import Backbone\n"
        "Backbone('timm/resnet18'), Backbone('wrn-10-1').build()\n"
        "assert not {'timm', 'torchvision'} & sys.modules.keys()\n"
        "from unshaken.nets.torchvision_ops import declare_operators\n"
        "declare_operators(), declare_operators()\n"
        "import torchvision, timm\n"
        "declare_operators()"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.extra
def test_after_a_failed_import_too():
    done = fresh(
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError as error:\n"
        "    assert 'torchvision::nms does not exist' in str(error)\n"
        "else:\n"
        "    raise SystemExit(3)\n"
        "from unshaken.nets.torchvision_ops import declare_operators\n"
        "declare_operators()\n"
        "import torchvision\n"
    )
    if done.returncode == 3:
        pytest.skip("this torchvision is imported by itself")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a torchvision is that has not been imported, beside a torch without CUDA."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    timm_package()  # with the real one; all that torchvision needs is defined from here on, whoever did it
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(torchvision_ops, "_torch_has_cuda", lambda: False)
    return tmp_path / "torchvision"


def declared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The libraries that would be made, and the operators that would be defined in them."""
    made = []

    class Library:
        def __init__(self, name: str, kind: str) -> None:
            made.append(name)

        def define(self, operator: str) -> None:
            made.append(operator)

    monkeypatch.setattr(torchvision_ops, "Library", Library)
    torchvision_ops.declare_operators.__wrapped__()  # around the cache, which holds what this process needs
    return made


def test_nothing_is_declared_where_the_extension_loads(package: Path, monkeypatch: pytest.MonkeyPatch):
    (package / "_C.first.so").write_bytes(b"does not load")
    shutil.copy(numpy.random.mtrand.__file__, package / "_C.so")  # some shared object
    (package / "_C.last.so").write_bytes(b"does not load")
    assert declared(monkeypatch) == []


def test_a_library_is_made_where_it_does_not(package: Path, monkeypatch: pytest.MonkeyPatch):
    (package / "_C.so").write_bytes(b"built for another machine")
    assert declared(monkeypatch) == ["torchvision"]


def test_with_cuda_it_is_not_for_us(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torchvision_ops, "_torch_has_cuda", lambda: True)
    assert declared(monkeypatch) == []


def test_nothing_is_declared_once_torchvision_is_there(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchvision", module_from_spec(find_spec("torchvision")))
    monkeypatch.setattr(torchvision_ops, "Library", lambda *_: pytest.fail("a library was made"))
    assert torchvision_ops.declare_operators.__wrapped__() is None


def test_nothing_is_declared_without_torchvision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torchvision_ops, "find_spec", lambda name: None)
    assert declared(monkeypatch) == []


@pytest.mark.parametrize("name", ["timm/test_resnet", "torchvision/resnet18"])
def test_a_published_classifier_takes_pixels_as_they_are(name):
    """Its normalisation, by the package's own numbers, is inside. Without its weights, for nothing is downloaded."""
    net, side = published_classifier(name, pretrained=False)
    x = images(side)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    config = timm_config("test_resnet")
    if name.startswith("timm"):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    with torch.no_grad():
        assert torch.equal(net.eval()(x), net[1]((x - mean) / std))
    assert net(x).shape == (4, 1000)
    assert side == (config.input_size[-1] if name.startswith("timm") else 224)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision/resnet19", "torchvision has no network 'resnet19'; did you mean resnet18"),
        ("torchvision/fcn_resnet50", "torchvision has no network"),
        ("timm/resnet19", "timm has no network 'resnet19'"),
        ("keras/resnet18", "named timm/NAME or torchvision/NAME"),
    ],
)
def test_what_is_not_published(name, words):
    with pytest.raises(ValueError, match=words):
        published_classifier(name, pretrained=False)
