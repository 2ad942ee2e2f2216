"""Wide ResNets against a forward pass spelled out by name in float64, and the counts and names of published ones."""

from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.nets.network import seeded
from unshaken.nets.wide_resnet import depth_and_widen, wrn


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


def forward(w: dict[str, Tensor], x: Tensor, depth: int) -> Tensor:
    """Zagoruyko & Komodakis, table 1 and figure 1(a), with the shortcut of TRADES, models/wideresnet.py:
    `x if self.equalInOut else self.convShortcut(relu1(bn1(x)))`."""

    def activated(x: Tensor, at: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"{at}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    x = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for k in range((depth - 4) // 6):
            at, stride = f"block{stage}.layer.{k}", 2 if stage > 1 and k == 0 else 1
            into, out = w[f"{at}.conv1.weight"].shape[1], w[f"{at}.conv1.weight"].shape[0]
            y = activated(x, f"{at}.bn1")
            z = F.conv2d(y, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            z = F.conv2d(activated(z, f"{at}.bn2"), w[f"{at}.conv2.weight"], padding=1)
            x = z + (x if into == out else F.conv2d(y, w[f"{at}.convShortcut.weight"], stride=stride))
    return F.adaptive_avg_pool2d(activated(x, "bn1"), 1).flatten(1)


@pytest.mark.parametrize(
    ("name", "side", "channels"), [("wrn-10-1", 32, 3), ("wrn-10-2", 8, 1), ("wrn-16-1", 16, 3), ("wrn-16-2", 9, 3)]
)
def test_the_forward_pass(name, side, channels):
    net = randomly_filled(seeded(lambda: wrn(name, channels), Key(0))).double().eval()
    x = torch.randn(2, channels, side, side, dtype=torch.float64, generator=Key(1).on("cpu"))
    with torch.no_grad():
        features, expected = net(x), forward(net.state_dict(), x, depth_and_widen(name)[0])
    assert features.shape == (2, net.features) == (2, 64 * depth_and_widen(name)[1])
    assert torch.allclose(features, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_the_input_is_not_written_to():
    net, x = seeded(lambda: wrn("wrn-10-1"), Key(0)), torch.randn(2, 3, 8, 8, generator=Key(1).on("cpu"))
    before = x.clone()
    net(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    # 36.5 M is table 4 of the paper and RobustBench's 36,479,194, with the ten-class layer; 46,160,474 likewise
    ("name", "with_ten_classes"),
    [("wrn-28-10", 36_479_194), ("wrn-34-10", 46_160_474)],
)
def test_the_number_of_parameters(name, with_ten_classes):
    with torch.device("meta"):
        net = wrn(name)
    assert sum(p.numel() for p in net.parameters()) + 640 * 10 + 10 == with_ten_classes


def test_names_and_shapes_are_those_of_published_checkpoints():
    with torch.device("meta"):
        net = wrn("wrn-28-10")
    expected = {"conv1.weight": (16, 3, 3, 3)}
    norms = {"bn1": 640}
    for stage, (into, out) in enumerate([(16, 160), (160, 320), (320, 640)], start=1):
        expected[f"block{stage}.layer.0.convShortcut.weight"] = (out, into, 1, 1)
        for k in range(4):
            at, first = f"block{stage}.layer.{k}", into if k == 0 else out
            norms |= {f"{at}.bn1": first, f"{at}.bn2": out}
            expected |= {f"{at}.conv1.weight": (out, first, 3, 3), f"{at}.conv2.weight": (out, out, 3, 3)}
    for norm, width in norms.items():
        expected |= {f"{norm}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{norm}.num_batches_tracked"] = ()
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == expected


def test_the_side_of_each_stage():
    seen = []
    with torch.device("meta"):
        net = wrn("wrn-28-10")
        for stage in (net.block1, net.block2, net.block3):
            stage.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
        assert net(torch.empty(2, 3, 32, 32)).shape == (2, 640)
    assert seen == [(160, 32, 32), (320, 16, 16), (640, 8, 8)]


def test_initial_weights():
    for name, weight in seeded(lambda: wrn("wrn-10-2"), Key(0)).named_parameters():
        if weight.ndim == 4:
            out, kernel = weight.shape[0], weight.shape[2]
            error = 10 / sqrt(2 * weight.numel())  # 10 σ of a standard deviation
            assert weight.std().item() == pytest.approx(sqrt(2 / (kernel**2 * out)), rel=error)
        else:
            assert (weight == (0 if name.endswith("bias") else 1)).all()


@pytest.mark.parametrize("name", ["wrn-27-10", "wrn-4-10", "wrn-28-0", "wrn-28", "wrn-28-10-1", "wrn-28-ten", "wrn-"])
def test_a_depth_is_6n_plus_4(name):
    with pytest.raises(ValueError, match=rf"no network '{name}'.* depth of 6n \+ 4 .*such as wrn-28-10"):
        wrn(name)
