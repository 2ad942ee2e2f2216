"""Convolutions as matrix products: equal to PyTorch's own, values and all gradients, and used where they should be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unshaken.base.rng import Key
from unshaken.compute import matmul_conv as small
from unshaken.compute.matmul_conv import MatmulConv2d, PatchProduct, ShiftedSum, patches, use_matmul_convs

SHAPES = [(4, 4, 3, 1, 1), (8, 8, 3, 2, 1), (5, 3, 3, 1, 1), (7, 7, 3, 2, 0), (6, 6, 5, 1, 2), (4, 4, 2, 2, 0)]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=Key("small").on("cpu"), dtype=torch.float64)


@pytest.mark.parametrize("form", [PatchProduct, ShiftedSum])
@pytest.mark.parametrize(("high", "wide", "k", "stride", "padding"), [*SHAPES, (1, 2, 3, 1, 1), (2, 2, 3, 1, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_products_are_the_convolution(form, high, wide, k, stride, padding, layout):
    if form is ShiftedSum and stride > 1:
        return
    given = (padding,) if form is ShiftedSum else (stride, padding)
    x = drawn(3, 4, high, wide).contiguous(memory_format=layout).requires_grad_()
    weight = drawn(5, 4, k, k).contiguous(memory_format=layout).requires_grad_()
    y, ours = F.conv2d(x, weight, None, stride, padding), form.apply(x, weight, *given)
    assert torch.allclose(y, ours)
    grad = drawn(*y.shape).flip(0)
    for a, b in zip(
        torch.autograd.grad(y, (x, weight), grad), torch.autograd.grad(ours, (x, weight), grad), strict=True
    ):
        assert torch.allclose(a, b)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_patches_are_what_a_convolution_looks_at():
    x = drawn(2, 3, 4, 5)
    unfolded = F.unfold(x, 3, padding=1, stride=2).view(2, 3, 9, 2, 3)  # N C kk h w
    assert torch.equal(patches(x, 3, 2, 1), unfolded.permute(0, 3, 4, 2, 1).flatten(3))


def convolutions() -> nn.Sequential:
    wide = small.LEAST_CHANNELS
    return nn.Sequential(
        nn.Conv2d(wide, 4, 3, padding=1),
        nn.Conv2d(wide - 1, 4, 3, padding=1),  # few weights
        nn.Conv2d(wide, 4, 1),  # a product already
        nn.Conv2d(wide, 4, 3, padding=1, groups=2),
        nn.Conv2d(wide, 4, 3, padding=2, dilation=2),
        nn.Conv2d(wide, 4, 3, padding=(1, 0)),
        nn.Conv2d(wide, 4, 3, padding=1, padding_mode="reflect"),
    )


def test_those_that_may_profit_are_exchanged_and_keep_their_parameters():
    net = convolutions()
    parameters, state = list(net.parameters()), list(net.state_dict())
    use_matmul_convs(net)
    assert [type(module) is MatmulConv2d for module in net] == [True, *[False] * 6]
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert state == list(net.state_dict())


@pytest.mark.parametrize(("side", "stride", "form"), [(4, 1, ShiftedSum), (8, 2, PatchProduct), (5, 1, None)])
def test_large_maps_stay_with_pytorch(side, stride, form, monkeypatch):
    used = []
    for each in (PatchProduct, ShiftedSum):
        noted = lambda *given, make=each.apply, each=each: used.append(each) or make(*given)  # noqa: E731
        monkeypatch.setattr(each, "apply", noted)
    conv = nn.Conv2d(small.LEAST_CHANNELS, 4, 3, stride, padding=1)
    net = nn.Sequential(conv)
    use_matmul_convs(net)
    x = drawn(2, small.LEAST_CHANNELS, side, side).float()
    assert torch.allclose(net(x), conv(x), atol=1e-4)
    assert used == ([form] if form else [])


def test_it_takes_the_precision_of_what_comes_in():
    net = nn.Sequential(nn.Conv2d(small.LEAST_CHANNELS, 4, 3, padding=1))
    use_matmul_convs(net)
    x = drawn(2, small.LEAST_CHANNELS, 4, 4).bfloat16()
    y = net(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert net[0].weight.grad.dtype == net[0].bias.grad.dtype == torch.float32
