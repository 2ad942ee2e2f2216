"""Batch norms inside convolutions: equal outputs and input gradients in eval mode, route by route."""

import copy

import pytest
import torch
from torch import nn

from unshaken.base.rng import Key
from unshaken.compute.bn_folding import BatchNormFolder, fold_batch_norms
from unshaken.compute.computation import FoldingComputation
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection
from unshaken.nets.network import DirectComputation, Encoder, Network, Normalize, evaluating, frozen, seeded
from variants import variants

ROUTES = ("clean", "adv")


def lived(encoder: Encoder, side: int, channels: int = 3) -> Network:
    """Two routes whose statistics, and whose scales, have moved apart."""
    net = with_routes(Network(encoder, Projection().build(encoder.features)), ROUTES)
    rng = Key("life").on("cpu")
    with torch.no_grad():
        for scale, route in enumerate(ROUTES, 1):
            for _ in range(3):
                net(scale / 2 * torch.rand(4, channels, side, side, generator=rng), route)
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5, generator=rng)
            norm.bias.normal_(0, 0.1, generator=rng)
    return net


def norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


NETWORKS = [
    (Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,)), 0),
    (Backbone("resnet18"), 0),
    (Backbone("wrn-10-1"), 8),  # a batch norm before the convolution: three blocks' first and the last, on two routes
    (Backbone("vit-small"), 0),
    (Backbone("timm/mobilenetv2_035", image_size=32), 0),  # timm's batch norms apply the activation too
]


@pytest.mark.parametrize(
    ("backbone", "left"),
    variants(NETWORKS, [NETWORKS[0], NETWORKS[2], NETWORKS[4]]),
    ids=lambda of: getattr(of, "name", str(of)),
)
def test_outputs_and_input_gradients_are_equal(backbone, left):
    """In float64: in float32, rounding decides for a few ReLUs on which side of 0 they are, and so for the gradient."""
    net = lived(seeded(backbone.build, Key(0)), backbone.image_size, backbone.channels).double()
    net.computation = DirectComputation(torch.float64)
    state = copy.deepcopy(net.state_dict())
    new = fold_batch_norms(net)
    assert norms(new.encoder) == left
    assert net.training
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert not any(p.requires_grad for p in new.parameters())
    net.eval()
    x = torch.rand(
        2, backbone.channels, backbone.image_size, backbone.image_size, generator=Key("x").on("cpu")
    ).double()
    outputs = {}
    for route in ROUTES:
        z, grad = answer(net, x, route)
        z_new, grad_new = answer(new, x, route)
        assert torch.allclose(z, z_new, rtol=1e-5, atol=1e-6 * float(z.abs().max()))
        assert float((grad - grad_new).norm() / grad.norm()) < 1e-6
        assert torch.allclose(net.features(x, route), new.features(x, route), rtol=1e-5, atol=1e-6)
        outputs[route] = z_new
    if norms(net.encoder):
        assert not torch.allclose(outputs["clean"], outputs["adv"], rtol=1e-2)


def answer(net: Network, x: torch.Tensor, route: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    z = net(x, route)
    (grad,) = torch.autograd.grad(z.square().sum(), x)
    return z.detach(), grad


class Odd(nn.Module):
    """A convolution that is used twice, a batch norm without one, and one after a sum: none can be moved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1)
        self.a, self.b, self.sum = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.first(x)
        return self.sum(self.a(self.twice(x)) + self.b(self.twice(x))).mean((-2, -1))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x)).mean((-2, -1)) * (2 if float(x.sum()) > 0 else 1)


@pytest.mark.parametrize(("kind", "features", "left"), [(Odd, 3, 8), (Untraceable, 4, 2)])
def test_what_cannot_be_moved_stays(kind, features, left):
    encoder = seeded(lambda: Encoder(Normalize((0.5,) * 3, (0.5,) * 3), kind(), features), Key(1))
    net = lived(encoder, 8)
    new = fold_batch_norms(net)
    net.eval()
    assert norms(new.encoder) == left
    x = torch.rand(4, 3, 8, 8, generator=Key("x").on("cpu"))
    with torch.no_grad():
        assert all(torch.allclose(net(x, route), new(x, route), rtol=1e-4, atol=1e-6) for route in ROUTES)


def test_a_plain_network_and_its_teacher():
    backbone = NETWORKS[0][0]
    net = Network(seeded(backbone.build, Key(0)), nn.Identity())
    net.teacher = Network(seeded(backbone.build, Key(1)), nn.Identity())
    with torch.no_grad():
        net(torch.rand(4, 1, 8, 8), "any"), net.teacher(torch.rand(4, 1, 8, 8), "any")
    new = fold_batch_norms(net)
    net.eval()
    x = torch.rand(2, 1, 8, 8, generator=Key("x").on("cpu"))
    assert norms(new) == 0
    with torch.no_grad():
        assert torch.allclose(net(x, "any"), new(x, "any"), rtol=1e-4, atol=1e-6)
        assert torch.allclose(net.teacher(x, "any"), new.teacher(x, "any"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", [NETWORKS[0][0], NETWORKS[2][0]], ids=lambda of: of.name)
def test_a_frozen_network_computes_folded_with_the_weights_it_has_now(backbone):
    """Fold, learn, fold again: what is traced once follows the weights, the scales and the statistics."""
    net = lived(seeded(backbone.build, Key(0)), backbone.image_size, backbone.channels)
    names, used = list(net.state_dict()), []
    net.computation = live = FoldingComputation(folder=BatchNormFolder(torch.float32))
    x = torch.rand(4, backbone.channels, backbone.image_size, backbone.image_size, generator=Key("x").on("cpu"))
    for _ in range(3):
        for route in ROUTES:
            with evaluating(net):
                z, grad = answer(net, x, route)
            with frozen(net):
                z_folded, grad_folded = answer(net, x, route)
                used.append(net.computation.folded[route])
                assert not any(p.requires_grad for p in net.parameters())
            assert net.computation is live
            assert all(p.requires_grad for p in net.parameters())
            assert norms(used[-1]) < norms(net.encoder)
            assert torch.allclose(z, z_folded, rtol=1e-3, atol=1e-4 * float(z.abs().max()))
            assert not torch.equal(z, z_folded)
            assert float((grad - grad_folded).norm() / grad.norm()) < 5e-3  # a ReLU or two at 0
        with torch.no_grad():
            net(2 * x, "adv"), net(x / 2, "clean")
            for k, p in enumerate(net.parameters()):
                p.add_(0.1 * torch.randn(p.shape, generator=(Key("step") / k).on("cpu")) * p.std().nan_to_num(1))
    assert list(net.state_dict()) == names
    assert len({id(one) for one in used}) == len(ROUTES)
    copied = copy.deepcopy(net)
    with frozen(copied):
        copied(x, "adv")
    assert copied.computation.folder.made["adv"][0] is not live.folder.made["adv"][0]


def test_statistics_that_are_not_kept_stay_where_they_are():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)

        def forward(self, x):
            return self.bn(self.conv(x)).mean((-2, -1))

    net = Network(seeded(lambda: Encoder(Normalize((0.5,) * 3, (0.5,) * 3), Own(), 4), Key(1)), nn.Identity())
    assert norms(fold_batch_norms(net)) == 1
