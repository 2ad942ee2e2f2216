"""Depthwise convolutions: weight gradients are equal to PyTorch's in float64, and ours are used only on small maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unshaken.base.rng import Key
from unshaken.compute import depthwise_conv as module
from unshaken.compute.depthwise_conv import DepthwiseConv2d, use_depthwise_convs, weight_gradient


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=Key("depthwise").on("cpu"), dtype=torch.float64)


@pytest.mark.parametrize(
    ("high", "wide", "k", "stride", "padding"),
    [
        (3, 3, 5, 1, 2),
        (2, 4, 5, 1, 2),
        (1, 1, 3, 1, 1),
        (6, 6, 5, 2, 2),
        (5, 7, 3, 2, 0),
        (9, 8, 7, 3, 3),
        (4, 4, 2, 2, 0),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_weight_gradient_is_that_of_the_convolution(high, wide, k, stride, padding, layout):
    x = drawn(3, 4, high, wide).contiguous(memory_format=layout)
    weight = drawn(4, 1, k, k).requires_grad_()
    y = F.conv2d(x, weight, None, stride, padding, groups=4)
    grad = drawn(*y.shape).flip(0).contiguous(memory_format=layout)
    (theirs,) = torch.autograd.grad(y, weight, grad)
    assert torch.allclose(weight_gradient(x, grad, k, stride, padding), theirs)


@pytest.mark.parametrize(("side", "stride", "ours"), [(3, 1, True), (5, 1, False), (8, 2, True), (9, 2, False)])
@pytest.mark.parametrize("bias", [False, True])
def test_small_maps_alone_are_computed_here(side, stride, ours, bias, monkeypatch):
    used = []
    old = module.weight_gradient
    monkeypatch.setattr(module, "weight_gradient", lambda *given: used.append(1) or old(*given))
    net = nn.Sequential(nn.Conv2d(6, 6, 5, stride, 2, groups=6, bias=bias))
    plain = nn.Conv2d(6, 6, 5, stride, 2, groups=6, bias=bias)
    plain.load_state_dict(net[0].state_dict())
    parameters = list(net.parameters())
    use_depthwise_convs(net)
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    x = drawn(2, 6, side, side).float().requires_grad_()
    y, expected = net(x), plain(x)
    assert torch.allclose(y, expected, atol=1e-6)
    grad = drawn(*y.shape).float()
    found = torch.autograd.grad(y, (x, *net.parameters()), grad)
    for a, b in zip(found, torch.autograd.grad(expected, (x, *plain.parameters()), grad), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert bool(used) is ours


def test_an_attack_computes_no_weight_gradient(monkeypatch):
    monkeypatch.setattr(module, "weight_gradient", None)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4)).requires_grad_(False)
    use_depthwise_convs(net)
    x = drawn(2, 4, 2, 2).float().requires_grad_()
    net(x).sum().backward()
    assert x.grad is not None


def test_other_convolutions_stay():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
    )
    use_depthwise_convs(net)
    assert [type(each) is DepthwiseConv2d for each in net] == [True, *[False] * 6]
