"""The low-rank branch: W + reshape(B A) α / r in every layer but the stem's, in every network alike."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from unshaken.base.rng import Key
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import merge_route, set_route, with_routes
from unshaken.nets.lora import LowRank, branch, with_lora, without_lora
from unshaken.nets.network import Encoder, Normalize, evaluating, seeded
from unshaken.nets.resnet import Bottleneck, ResNet
from variants import variants

COUNTS = {  # convolutions and linear layers beyond the stem
    Backbone("resnet18", 32): 19,
    Backbone("resnet18", 96): 19,
    Backbone("resnet50", 96): 52,
    Backbone("resnet-small", 8): 5,
    Backbone("wrn-10-1", 32): 8,
    Backbone("timm/test_vit", 32): 24,
    Backbone("timm/test_byobnet", 32): None,
    Backbone("timm/test_efficientnet", 32): None,
    Backbone("timm/test_convnext", 32): None,
    Backbone("timm/nf_resnet26", 32): None,  # its convolutions standardise their weights as they compute
}
BULKY = [Backbone("resnet18", 32), Backbone("resnet50", 96), Backbone("timm/nf_resnet26", 32)]
each_backbone = pytest.mark.parametrize(
    "backbone", variants(COUNTS, [b for b in COUNTS if b not in BULKY]), ids=lambda b: f"{b.name}@{b.image_size}"
)


class Bottlenecks(Backbone):
    """A ResNet-50 with one narrow block in each of two stages."""

    def build(self) -> Encoder:
        net = ResNet(Bottleneck, (1, 1), 8, self.image_size, self.channels)
        return Encoder(Normalize(self.mean, self.std), net, net.features)


FEW = [Backbone("resnet18", 96), Bottlenecks("resnet50", 96), Backbone("wrn-10-1", 32), Backbone("timm/test_vit", 32)]
SIDE = {96: 40, 32: 32, 8: 8}
"""A network of convolutions reads smaller images too."""
each_kind = pytest.mark.parametrize("backbone", FEW, ids=lambda b: f"{b.name}@{b.image_size}")


def images(backbone: Backbone, count: int = 2) -> Tensor:
    side = SIDE[backbone.image_size]
    return torch.rand(count, backbone.channels, side, side, generator=Key("x").on("cpu"))


def adapted(backbone: Backbone, routes: tuple[str, ...] = (), **options) -> Encoder:
    encoder = seeded(backbone.build, Key(0))
    return with_lora(with_routes(encoder, routes) if routes else encoder, Key(1), **options)


def grown(backbone: Backbone, routes: tuple[str, ...] = (), size: float = 0.01) -> Encoder:
    """With a branch that has learned something."""
    encoder, rng = adapted(backbone, routes), Key("B").on("cpu")
    with torch.no_grad():
        for layer in low_rank(encoder).values():
            layer.B.normal_(0, size, generator=rng)
        for parameter in encoder.parameters():  # some networks close their residual branches at birth
            if not parameter.any():
                parameter.fill_(0.1)
    return encoder


def low_rank(net: nn.Module) -> dict[str, LowRank]:
    return {name: module for name, module in net.named_modules() if isinstance(module, LowRank)}


def in_branch(encoder: Encoder, x: Tensor) -> Tensor:
    with branch(encoder), evaluating(encoder):
        return encoder(x)


@each_backbone
def test_every_layer_but_the_stems_has_one_and_it_is_active(backbone):
    """Where the released code loses the branch, 11 of 19 convolutions behind the 7×7 stem got no gradient."""
    encoder = grown(backbone)
    layers = [m for m in seeded(backbone.build, Key(0)).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    found = low_rank(encoder)
    assert len(found) == (COUNTS[backbone] or len(layers) - 1)
    in_branch(encoder, images(backbone)).square().sum().backward()
    silent = [n for n, m in found.items() if not (m.A.grad.abs().max() > 0 and m.B.grad.abs().max() > 0)]
    assert silent == []
    assert {n for n, p in encoder.named_parameters() if p.grad is not None} == {f"{n}.{p}" for n in found for p in "AB"}


def test_which_layers_of_a_resnet():
    names = set(low_rank(adapted(Backbone("resnet-small", 8))))
    expected = ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"]
    assert names == {f"backbone.{name}" for name in expected}


def test_which_layers_of_a_vit():
    names = set(low_rank(adapted(Backbone("vit-small", 32))))
    parts = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    assert names == {f"backbone.blocks.{k}.{part}" for k in range(12) for part in parts}


@each_backbone
def test_it_is_born_as_the_network_itself(backbone):
    plain, encoder, x = seeded(backbone.build, Key(0)), adapted(backbone), images(backbone)
    with evaluating(plain), evaluating(encoder), torch.no_grad():
        expected = plain(x)
        assert torch.equal(encoder(x), expected)
        assert torch.allclose(in_branch(encoder, x), expected, atol=1e-6)


@each_kind
def test_off_it_changes_nothing_and_on_it_does(backbone):
    encoder, x = grown(backbone), images(backbone)
    plain = without_lora(encoder)
    with evaluating(plain), evaluating(encoder), torch.no_grad():
        assert not torch.allclose(in_branch(encoder, x), plain(x), rtol=1e-2)
        assert torch.equal(encoder(x), plain(x))


@each_backbone
def test_without_it_the_network_is_plain_again(backbone):
    plain, encoder = seeded(backbone.build, Key(0)).state_dict(), adapted(backbone)
    again = without_lora(encoder).state_dict()
    assert list(again) == list(plain)
    assert all(torch.equal(again[name], plain[name]) for name in plain)
    assert low_rank(encoder)


CONVOLUTIONS = [
    nn.Conv2d(6, 8, 3, 2, 1, bias=False),
    nn.Conv2d(6, 8, 1, bias=True),
    nn.Conv2d(6, 9, 5, groups=3),
    nn.Conv2d(6, 6, 3, padding="same", groups=6),
    nn.Conv2d(6, 8, (1, 7), padding=(0, 3)),
    nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect", dilation=1),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize(("rank", "alpha"), [(8, 1.0), (3, 2.0)])
def test_a_convolution_against_its_equation(conv, rank, alpha):
    net = with_lora(nn.Sequential(nn.Conv2d(6, 6, 1), copy.deepcopy(conv)), Key(0), rank, alpha)
    stem, layer = net
    nn.init.normal_(layer.B, generator=Key("B").on("cpu"))
    out, per_group, high, wide = conv.weight.shape
    assert layer.A.shape == (rank * wide, conv.in_channels * wide)
    assert layer.B.shape == (out // conv.groups * high, rank * wide)
    product = layer.B.double() @ layer.A.double()
    delta = product.reshape(out, per_group, high, wide) * alpha / rank
    x = torch.rand(4, 6, 9, 9, generator=Key("x").on("cpu"))
    lone = copy.deepcopy(conv).double()
    lone.weight.data += delta
    with branch(net):
        assert torch.allclose(net(x).double(), lone(stem(x).double()), rtol=1e-4, atol=1e-4)
    if conv.padding_mode == "zeros":
        y = conv2d(stem(x), conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        assert torch.equal(net(x), y)


def test_rank_8_of_a_convolution_is_over_8():
    """ΔW = B A / 8 for α = 1, entry by entry of the reshaped product."""
    (_, layer) = with_lora(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3)), Key(0))
    nn.init.normal_(layer.B, generator=Key("B").on("cpu"))
    flat = [
        sum(b * a for b, a in zip(row, column, strict=True)) / 8
        for row in layer.B.tolist()
        for column in layer.A.T.tolist()
    ]
    assert layer.delta.flatten().tolist() == pytest.approx(flat, rel=1e-3, abs=1e-4)


def test_a_linear_layer_against_its_equation():
    net = with_lora(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 7)), Key(0), rank=2, alpha=3.0)
    stem, layer = net
    nn.init.normal_(layer.B, generator=Key("B").on("cpu"))
    assert (layer.A.shape, layer.B.shape) == ((2, 6), (7, 2))
    x = torch.rand(4, 5, generator=Key("x").on("cpu"))
    expected = linear(stem(x), layer.layer.weight + 1.5 * layer.B @ layer.A, layer.layer.bias)
    with branch(net):
        assert torch.allclose(net(x), expected, atol=1e-5)
        assert torch.allclose(linear(stem(x), layer.weight, layer.bias), expected, atol=1e-5)
    assert torch.equal(layer.weight, layer.layer.weight)


@each_kind
@pytest.mark.parametrize("routes", [(), ("clean", "adv")], ids=["plain", "routed"])
def test_an_image_does_not_depend_on_the_others(backbone, routes):
    """The released form for two routes added the shortcut of sample 0 to all."""
    encoder, x = grown(backbone, routes), images(backbone, 3)
    with torch.no_grad():
        whole = in_branch(encoder, x)
        alone = torch.cat([in_branch(encoder, image[None]) for image in x])
    assert torch.allclose(whole, alone, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


@each_kind
def test_routes_and_branch_are_independent(backbone):
    encoder, x = grown(backbone, ("clean", "adv")), images(backbone)
    with evaluating(encoder), torch.no_grad():
        for route in ("clean", "adv"):
            set_route(encoder, route)
            lone = merge_route(encoder, route)
            assert torch.equal(encoder(x), without_lora(lone).eval()(x))
            assert torch.equal(in_branch(encoder, x), in_branch(lone, x))


@each_kind
def test_outside_the_branch_everything_else_learns(backbone):
    encoder, x = grown(backbone), images(backbone)
    inside = in_branch(encoder, x)
    both = inside.square().sum() + encoder(x).square().sum()
    own = {f"{name}.{p}" for name in low_rank(encoder) for p in "AB"}
    learned = torch.autograd.grad(both, list(encoder.parameters()))
    assert all(p.requires_grad for p in encoder.parameters())
    outside = encoder(x).square().sum()
    alone = torch.autograd.grad(outside, list(encoder.parameters()), allow_unused=True)
    for (name, _), with_inside, without in zip(encoder.named_parameters(), learned, alone, strict=True):
        assert (without is None) == (name in own)
        assert without is None or torch.equal(with_inside, without)  # nothing inside has reached it


def test_what_did_not_learn_before_does_not_after():
    encoder = grown(Backbone("resnet-small", 8))
    encoder.backbone.bn1.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), branch(encoder):
        raise ZeroDivisionError
    assert not encoder.backbone.bn1.weight.requires_grad
    assert encoder.backbone.layer1[0].bn1.weight.requires_grad
    assert not next(iter(low_rank(encoder).values())).switch.on


def test_the_draw_depends_on_the_key_alone():
    backbone = Backbone("resnet-small", 8)
    first = adapted(backbone)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, other = adapted(backbone), with_lora(seeded(backbone.build, Key(0)), Key(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, layer in low_rank(first).items():
        assert torch.equal(layer.A, low_rank(again)[name].A)
        assert not torch.equal(layer.A, low_rank(other)[name].A)
        assert not layer.B.any()
    drawn = torch.cat([layer.A.detach().flatten() for layer in low_rank(first).values()])
    assert abs(drawn.mean()) < 0.02
    assert drawn.std().item() == pytest.approx(1, abs=0.02)
    a, b, *_ = (layer.A.flatten()[:50] for layer in low_rank(first).values())
    assert not torch.equal(a, b)


def test_a_copy_has_a_switch_of_its_own():
    encoder = grown(Backbone("resnet-small", 8))
    other = copy.deepcopy(encoder)
    assert len({id(layer.switch) for layer in low_rank(other).values()}) == 1
    with branch(other):
        assert not any(layer.switch.on for layer in low_rank(encoder).values())
        assert all(layer.switch.on for layer in low_rank(other).values())


def test_a_layer_in_two_places_stays_one():
    shared = nn.Linear(3, 3)
    net = with_lora(nn.Sequential(nn.Linear(3, 3), shared, nn.ReLU(), shared), Key(0))
    assert net[1] is net[3]
    again = without_lora(net)
    assert again[1] is again[3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adapted(Backbone("resnet-small", 8), rank=0), "rank of a branch is 1 or more"),
        (lambda: with_lora(adapted(Backbone("resnet-small", 8)), Key(0)), "has a low-rank branch already"),
        (lambda: with_lora(nn.Sequential(nn.Flatten(), nn.ReLU()), Key(0)), "nothing to adapt"),
        (lambda: branch(nn.Linear(2, 2)).__enter__(), "has no low-rank branch"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
