"""ResNets against torchvision's names, shapes and counts, and against a forward pass spelled out by name."""

from hashlib import blake2b
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.nets.network import seeded
from unshaken.nets.resnet import pooled, resnet

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet-small": (1, 1)}


@pytest.mark.parametrize(
    ("name", "parameters", "digest"),
    [
        ("resnet18", 11_176_512, "4e568edc4263de83"),
        ("resnet34", 21_284_672, "0ecef210a198a3fb"),
        ("resnet50", 23_508_032, "1e375f1394f2e3a3"),
    ],
)
def test_names_and_shapes_are_those_of_torchvision(name, parameters, digest):
    # recorded from torchvision 0.28.0: getattr(torchvision.models, name)() without its fc
    with torch.device("meta"):
        net = resnet(name, 224)
    assert sum(p.numel() for p in net.parameters()) == parameters
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items())
    assert blake2b("\n".join(lines).encode(), digest_size=8).hexdigest() == digest


def randomly_filled(net: nn.Module) -> nn.Module:
    """Batch norms away from their initial values, with weights of both signs."""
    rng = Key("fill").on("cpu")
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1, generator=rng)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=rng)
        elif value.ndim == 1:
            value.normal_(generator=rng)
    return net


def forward(w: dict[str, Tensor], x: Tensor, name: str, stem: int, padding: int = 1) -> Tensor:
    """He et al., table 1, with the stride of a bottleneck in its 3×3 layer, as torchvision has it."""

    def norm(x: Tensor, at: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"{at}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    if stem > 32:
        x = F.max_pool2d(norm(F.conv2d(x, w["conv1.weight"], stride=2, padding=3), "bn1").relu(), 3, 2, 1)
    else:
        x = norm(F.conv2d(x, w["conv1.weight"], padding=padding), "bn1").relu()
    convs = {"resnet50": [(1, 0), (2, 1), (3, 0)]}.get(name, [(1, 1), (2, 1)])
    strided = 2 if name == "resnet50" else 1
    for stage, count in enumerate(BLOCKS[name], start=1):
        for k in range(count):
            at, stride, y = f"layer{stage}.{k}", 2 if stage > 1 and k == 0 else 1, x
            for i, padding in convs:
                y = F.conv2d(y, w[f"{at}.conv{i}.weight"], stride=stride if i == strided else 1, padding=padding)
                y = norm(y, f"{at}.bn{i}")
                y = y.relu() if i < len(convs) else y
            if f"{at}.downsample.0.weight" in w:
                x = norm(F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            x = (x + y).relu()
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


@pytest.mark.parametrize(
    ("name", "stem", "side", "channels"),
    [
        ("resnet18", 224, 64, 3),
        ("resnet18", 32, 16, 3),
        ("resnet34", 96, 48, 3),
        ("resnet50", 224, 64, 3),
        ("resnet50", 32, 8, 1),
        ("resnet-small", 8, 8, 1),
    ],
)
def test_the_forward_pass(name, stem, side, channels):
    net = randomly_filled(seeded(lambda: resnet(name, stem, channels), Key(0))).eval()
    x = torch.randn(2, channels, side, side, generator=Key(1).on("cpu"))
    with torch.no_grad():
        features, expected = net(x), forward(net.state_dict(), x, name, stem)
    assert features.shape == (2, net.features)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_the_padding_of_the_stem(padding):
    net = randomly_filled(seeded(lambda: resnet("resnet-small", 32, padding=padding), Key(0))).eval()
    x, seen = torch.randn(2, 3, 32, 32, generator=Key(1).on("cpu")), []
    net.conv1.register_forward_hook(lambda _, __, y: seen.append(y.shape[-1]))
    with torch.no_grad():
        features, expected = net(x), forward(net.state_dict(), x, "resnet-small", 32, padding)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert seen == [30 + 2 * padding]


def test_the_maps_of_deacl_s_encoders():
    # solo-learn, whose ResNets DeACL uses, pads the 3×3 stem by 2
    seen = []
    with torch.device("meta"):
        net = resnet("resnet18", 32, padding=2)
        for stage in range(1, 5):
            net.get_submodule(f"layer{stage}").register_forward_hook(lambda _, __, y: seen.append(y.shape[-1]))
        assert net(torch.empty(2, 3, 32, 32)).shape == (2, 512)
    assert seen == [34, 17, 9, 5]


def test_a_strided_stem_has_its_own_padding():
    with torch.device("meta"):
        assert resnet("resnet18", 224, padding=2).conv1.padding == (3, 3)


@pytest.mark.parametrize(
    ("name", "stem", "side", "sides", "features"),
    [
        ("resnet18", 224, 224, [56, 28, 14, 7], 512),
        ("resnet18", 96, 96, [24, 12, 6, 3], 512),
        ("resnet18", 32, 32, [32, 16, 8, 4], 512),
        ("resnet34", 8, 8, [8, 4, 2, 1], 512),
        ("resnet50", 96, 96, [24, 12, 6, 3], 2048),
        ("resnet-small", 8, 8, [8, 4], 64),
    ],
)
def test_the_side_of_each_stage(name, stem, side, sides, features):
    seen = []
    with torch.device("meta"):
        net = resnet(name, stem)
        for stage in range(1, len(sides) + 1):
            net.get_submodule(f"layer{stage}").register_forward_hook(lambda _, __, y: seen.append(y.shape[2:]))
        assert net(torch.empty(2, 3, side, side)).shape == (2, features)
    assert seen == [(s, s) for s in sides]
    assert net.features == features


def test_initial_weights():
    net = seeded(lambda: resnet("resnet18", 32), Key(0))
    for name, weight in net.named_parameters():
        if weight.ndim == 4:  # N(0, 2/fan_out): He et al., ICCV 2015
            fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
            error = 10 / sqrt(2 * weight.numel())  # 10 σ of a standard deviation
            assert weight.std().item() == pytest.approx(sqrt(2 / fan_out), rel=error)
        else:
            assert (weight == (0 if name.endswith("bias") else 1)).all()


def test_channels():
    with torch.device("meta"):
        assert resnet("resnet18", 32, channels=1).conv1.weight.shape == (64, 1, 3, 3)
        assert resnet("resnet18", 224, channels=2).conv1.weight.shape == (64, 2, 7, 7)


def test_the_gradient_of_the_pool_has_channels_last():
    """As the map that is pooled: a ReLU's gradient takes ten times as long if it has not."""
    x = torch.rand(3, 5, 4, 4, generator=Key("x").on("cpu")).to(memory_format=torch.channels_last).requires_grad_()
    y = pooled(2 * x)
    assert torch.allclose(y, 2 * x.mean((-2, -1)))
    shapes = []
    z = (2 * x).relu()
    z.register_hook(lambda grad: shapes.append(grad.is_contiguous(memory_format=torch.channels_last)))
    pooled(z).square().sum().backward()
    assert shapes == [True]
