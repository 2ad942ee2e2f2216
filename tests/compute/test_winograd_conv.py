"""Winograd's convolutions are PyTorch's in float64, values and all gradients, and used where they may be faster."""

import copy
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unshaken
from unshaken.base.native_code import Unavailable, compiler_here
from unshaken.base.rng import Key
from unshaken.compute import winograd_conv
from unshaken.compute.matmul_conv import MatmulConv2d
from unshaken.compute.runtime import Runtime
from unshaken.compute.winograd_conv import (
    TILES,
    WinogradConv2d,
    WinogradProduct,
    has_bf16,
    tile_for,
    use_winograd_convs,
)
from unshaken.nets.network import frozen

try:
    compiler_here()
except Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

FLOAT, LOW = torch.float32, torch.bfloat16
SHAPES = [(1, 32, 64, 1, 1), (2, 64, 32, 2, 2), (3, 32, 32, 3, 5), (5, 96, 64, 7, 4), (4, 64, 160, 8, 8)]


def drawn(*shape: int, dtype: torch.dtype = FLOAT) -> torch.Tensor:
    x = torch.randn(shape, generator=Key("winograd").on("cpu"))
    return x.to(dtype).contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def differs(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


def everything(product, x, weight, bias, grad) -> list[torch.Tensor]:
    """The output of a convolution, and the gradients of images, weights and bias."""
    parts = [part.clone().requires_grad_() for part in (x, weight, bias)]
    y = product(*parts)
    return [y.detach(), *torch.autograd.grad(y, parts, grad)]


def exact(x, weight, bias, grad) -> list[torch.Tensor]:
    return everything(lambda *parts: F.conv2d(*parts, padding=1), *(t.double() for t in (x, weight, bias, grad)))


@pytest.mark.parametrize(("dtype", "tile", "most"), [(FLOAT, 2, 1e-6), (FLOAT, 4, 3e-6), (LOW, 2, 8e-3)])
@pytest.mark.parametrize(("n", "c", "d", "high", "wide"), SHAPES)
def test_it_is_the_convolution(dtype, tile, most, n, c, d, high, wide):
    """Odd sides, single pixels, and blocks that are not full."""
    if dtype is LOW and not has_bf16():
        pytest.skip("the processor does not multiply bf16")
    given = inputs(dtype, n, c, d, high, wide)
    found = everything(lambda *parts: WinogradProduct.apply(*parts, tile), *given)
    assert [part.dtype for part in found] == [dtype, dtype, FLOAT, FLOAT]
    assert all(differs(ours, right) < most for ours, right in zip(found, exact(*given), strict=True))
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def inputs(dtype, n: int, c: int, d: int, high: int, wide: int) -> tuple[torch.Tensor, ...]:
    return drawn(n, c, high, wide, dtype=dtype), drawn(d, c, 3, 3), drawn(d), drawn(n, d, high, wide, dtype=dtype)


def differences_by_threads() -> list[str]:
    """Return the cases in which three threads compute other bits than one."""
    wrong = []
    kinds = [(FLOAT, 2), (FLOAT, 4), (LOW, 2)] if has_bf16() else [(FLOAT, 2), (FLOAT, 4)]
    for (dtype, tile), shape in product(kinds, SHAPES):
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(everything(lambda *parts, t=tile: WinogradProduct.apply(*parts, t), *inputs(dtype, *shape)))
        if not all(torch.equal(a, b) for a, b in zip(*found, strict=True)):
            wrong.append(f"{dtype}, tile {tile}, {shape}")
    return wrong


def test_three_threads_compute_the_bits_of_one():
    """In a process of its own: with several threads alive here, a forked child of another test would wait forever."""
    places = [str(Path(__file__).parent), *sys.path]
    code = f"import sys; sys.path[:] = {places}; import test_winograd_conv as own; print(own.differences_by_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("dtype", [FLOAT, LOW])
def test_it_rounds_about_as_much_as_pytorch(dtype):
    """Many blocks of tiles: the error of PyTorch's own convolution in this precision is the measure."""
    if dtype is LOW and not has_bf16():
        pytest.skip("the processor does not multiply bf16")
    x, grad = (drawn(32, 64, 16, 16, dtype=dtype).flip(k) for k in (0, 1))
    weight, bias = drawn(64, 64, 3, 3), drawn(64)
    right = exact(x, weight, bias, grad)
    plain = everything(lambda x, w, b: F.conv2d(x, w.to(dtype), b.to(dtype), padding=1), x, weight, bias, grad)
    for tile in TILES[dtype]:
        ours = everything(lambda *parts, tile=tile: WinogradProduct.apply(*parts, tile), x, weight, bias, grad)
        for a, b, c in list(zip(ours, plain, right, strict=True))[:3]:
            assert differs(a, c) < 3 * differs(b, c)


def test_those_that_may_profit_are_exchanged_and_changed_back():
    few = winograd_conv.CHANNELS
    net = nn.Sequential(
        nn.Conv2d(few, 2 * few, 3, padding=1),
        MatmulConv2d(few, few, 3, padding=1),
        nn.Conv2d(3, few, 3, padding=1),
        nn.Conv2d(few, few + 16, 3, padding=1),
        nn.Conv2d(few, few, 3, 2, padding=1),
        nn.Conv2d(few, few, 3),
        nn.Conv2d(few, few, 5, padding=2),
        nn.Conv2d(few, few, 3, padding=2, dilation=2),
        nn.Conv2d(few, few, 3, padding=1, groups=2),
        nn.Conv2d(few, few, 3, padding=1, padding_mode="reflect"),
    )
    parameters = list(net.parameters())
    use_winograd_convs(net)
    assert [type(module) is WinogradConv2d for module in net] == [True, True, *[False] * 8]
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert type(copy.deepcopy(net)[0]) is WinogradConv2d
    use_winograd_convs(net, False)
    assert all(type(module) is nn.Conv2d for module in net)


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((16, 32, 8, 8), 4),
        ((4, 32, 8, 8), 2),  # few tiles of 4 × 4
        ((3, 32, 8, 8), 0),  # few of both
        ((128, 32, 7, 7), 4),
        ((128, 32, 6, 6), 2),  # as many multiplications in both
        ((128, 32, 5, 5), 0),  # much of the tiles lies outside
        ((128, 32, 3, 3), 0),
        ((128, 32, 2, 2), 2),
    ],
)
def test_it_is_used_where_it_may_be_faster(shape, tile):
    x = drawn(*shape)
    assert tile_for(x) == tile
    assert not tile_for(x.contiguous())
    assert not tile_for(x.double())
    assert not tile_for(x.bfloat16().contiguous(memory_format=torch.channels_last)) or has_bf16()
    with torch.autocast("cpu", dtype=LOW):
        assert not tile_for(x)


def test_a_network_computes_with_it(monkeypatch):
    """Training and a folded attack, with all of its convolutions of 32 channels and more on 8 × 8 pixels."""
    shapes, convolved = [], winograd_conv.convolved

    def noted(x, weight, bias, tile, back=False):
        shapes.append((tuple(x.shape[1:]), bias is not None, back))
        return convolved(x, weight, bias, tile, back)

    monkeypatch.setattr(winograd_conv, "convolved", noted)
    x, found = torch.rand(8, 1, 8, 8, generator=Key("x").on("cpu")), []
    for words in (("plain",), ("channels-last", "folding", "winograd")):
        net = unshaken.recipe("acl/digits").build_network()
        Runtime("cpu", computation=words).prepare(net)
        (net(x, "adv")[:, 0] * x[:, 0, 0, 0]).sum().backward()  # batch norms make any sum of squares constant
        with frozen(net):
            image = x.clone().requires_grad_()
            (grad,) = torch.autograd.grad(net(image, "adv").square().sum(), image)
        found.append([grad, *(p.grad for p in net.encoder.parameters() if p.grad is not None and p.ndim == 4)])
    assert all(differs(ours, plain.double()) < 1e-4 for plain, ours in zip(*found, strict=True))
    folded = [back for _, bias, back in shapes if bias]
    assert folded
    assert len(shapes) == 4 * len(folded)  # two passes in each direction, of which one forward has the folded bias


def test_a_run_that_needs_it_says_what_is_missing(monkeypatch):
    def load(build=True):
        raise Unavailable("there is no C compiler here (cc)")

    monkeypatch.setattr(winograd_conv.CODE, "load", load)
    with pytest.raises(ValueError, match=r"winograd.*no C compiler.*--runtime.computation without winograd"):
        Runtime("cpu", computation=("channels-last", "winograd")).set_up_process()
    Runtime("cpu", computation=("channels-last",)).set_up_process()
