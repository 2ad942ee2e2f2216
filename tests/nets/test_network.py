"""Networks: pixels in, float32 out; all views one batch; modes put back; births that depend on a key."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.compute.computation import FoldingComputation
from unshaken.nets.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection, zero_classifier
from unshaken.nets.network import Encoder, Network, Normalize, evaluating, seeded

GREY = Backbone("resnet-small", 8, 1, (0.5,), (0.25,))


def network() -> Network:
    def build() -> Network:
        encoder = GREY.build()
        return Network(encoder, Projection(2).build(encoder.features))

    return seeded(build, Key(0))


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=Key(1).on("cpu"))


def test_the_mean_and_the_deviation_are_imagenet_s():
    assert (Backbone().mean, Backbone().std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_pixels_are_normalised_inside():
    x = images(2, 3, 8, 8)
    expected = torch.stack([(x[:, c] - IMAGENET_MEAN[c]) / IMAGENET_STD[c] for c in range(3)], dim=1)
    assert torch.allclose(Normalize(IMAGENET_MEAN, IMAGENET_STD)(x), expected)
    encoder = seeded(Backbone("resnet-small", 8).build, Key(0)).eval()
    assert torch.allclose(encoder(x), encoder.backbone(expected), atol=1e-6)


def test_the_normalisation_is_no_parameter():
    encoder = GREY.build()
    assert not list(encoder.normalize.parameters())
    assert {"normalize.mean", "normalize.std"} <= encoder.state_dict().keys()


@pytest.mark.parametrize("wrong", [{"channels": 1}, {"mean": (0.5,)}, {"std": (0.5, 0.5)}], ids=str)
def test_one_mean_and_one_deviation_a_channel(wrong):
    with pytest.raises(ValueError, match="need as many means and standard deviations"):
        Backbone(**wrong)


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (2, 3, 1, 8, 8), (1, 2, 3, 1, 8, 8)])
def test_leading_axes_are_kept_and_are_one_batch(shape):
    x = images(6, 1, 8, 8)
    one, other = network().train(), network().train()
    z, expected = one(x.view(shape), "clean"), other.head(other.encoder(x))
    assert z.shape == (*shape[:-3], 64)
    assert torch.equal(z.flatten(0, -2), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


def test_batch_norms_see_both_views_at_once():
    x = torch.stack([images(8, 1, 8, 8) / 2, images(8, 1, 8, 8) / 2 + 0.5])
    z = network().train()(x, "clean")  # the head ends in a batch norm with weight 1 and bias 0
    assert z.mean((0, 1)).abs().max() < 1e-5
    assert z.mean(1).abs().max() > 0.1


def test_the_route_is_taken():
    net = with_routes(network(), ("clean", "adv")).train()
    net(images(4, 1, 8, 8), "adv")
    norm = net.encoder.backbone.bn1.routes
    assert (int(norm["clean"].num_batches_tracked), int(norm["adv"].num_batches_tracked)) == (0, 1)
    with pytest.raises(ValueError, match="has no route 'pgd'"):
        net(images(4, 1, 8, 8), "pgd")


def test_low_precision_is_inside_only():
    net, x = network().eval(), images(4, 1, 8, 8)
    seen = []
    net.head.register_forward_hook(lambda _, __, z: seen.append(z.dtype))
    full = net(x, "clean").detach()
    net.computation = FoldingComputation(torch.bfloat16, partial(torch.autocast, "cpu", torch.bfloat16))
    low = net(x, "clean").detach()
    assert seen == [torch.float32, torch.bfloat16]
    assert low.dtype == torch.float32
    assert not torch.equal(low, full)
    assert torch.allclose(low, full, atol=0.05 * float(full.abs().max()))
    net = Network(nn.Flatten(), nn.Linear(64, 2)).to(torch.bfloat16)
    assert net(x.bfloat16(), "clean").dtype == torch.float32


def test_evaluating_puts_mixed_modes_back():
    net = network().train()
    net.encoder.eval()
    net.encoder.backbone.bn1.train()
    modes = [m.training for m in net.modules()]
    assert len(set(modes)) == 2
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == modes


def test_evaluating_puts_modes_back_after_an_error():
    net = network().train()
    with pytest.raises(KeyError), evaluating(net):
        raise KeyError
    assert all(m.training for m in net.modules())


def test_evaluating_goes_around_a_module_s_own_train():
    class Stubborn(nn.Module):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)

    net = Stubborn()
    net.training = True
    with evaluating(net):
        assert not net.training
    assert net.training


def weights(key: Key) -> list[Tensor]:
    return list(seeded(GREY.build, key).parameters())


def alike(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_birth_depends_on_its_key_alone():
    torch.manual_seed(1)
    first = weights(Key(0))
    torch.manual_seed(2)
    assert alike(first, weights(Key(0)))
    assert not alike(first, weights(Key(1)))
    assert not alike(first, weights(Key(0) / "x"))


def test_a_birth_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    weights(Key(0))
    assert torch.equal(torch.get_rng_state(), before)

    def fails() -> nn.Module:
        torch.rand(3)
        raise RuntimeError("stillborn")

    with pytest.raises(RuntimeError, match="stillborn"):
        seeded(fails, Key(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_projection(layers):
    head = Projection(layers).build(6)
    names = ["Linear", "BatchNorm1d", "ReLU"] * layers
    assert [type(m).__name__ for m in head] == names[:-1]
    linear = [m for m in head if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linear] == [(6, 6)] * layers
    assert [m.bias is not None for m in linear] == [True] + [False] * (layers - 1)
    assert head(images(4, 6)).shape == (4, 6)


def test_the_zero_classifier():
    layer = zero_classifier(6, 4)
    assert layer.weight.shape == (4, 6)
    assert layer.bias.shape == (4,)
    assert not layer(images(3, 6)).any()
    assert all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(
    ("backbone", "side", "features"),
    [(GREY, 8, 64), (Backbone("resnet18"), 32, 512), (Backbone("resnet50", 96), 96, 2048)],
    ids=["small", "18", "50"],
)
def test_backbones(backbone, side, features):
    with torch.device("meta"):
        encoder = backbone.build()
        assert isinstance(encoder, Encoder)
        assert encoder.features == features
        assert encoder(torch.empty(2, backbone.channels, side, side)).shape == (2, features)


def test_a_copy_is_independent():
    net = network()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.head[0].weight.zero_()
    assert net.head[0].weight.any()


def test_birth_leaves_the_gpus_generators_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    seeded(lambda: nn.Linear(2, 2), Key(0))


def test_features_are_below_the_head():
    net, x = network().eval(), images(2, 3, 1, 8, 8)
    f = net.features(x, "clean")
    assert f.shape == (2, 3, 64)
    assert torch.allclose(net.head(f.flatten(0, 1)).view(2, 3, -1), net(x, "clean"), atol=1e-6)


def test_features_go_by_the_route():
    net, x = with_routes(network(), ("clean", "adv")).eval(), images(2, 1, 8, 8)
    with torch.no_grad():
        net.encoder.backbone.bn1.routes["adv"].bias.add_(1)
    assert not torch.allclose(net.features(x, "adv"), net.features(x, "clean"))


def test_a_teacher_with_other_routes_is_left_alone():
    net = with_routes(network(), ("shared",))
    net.teacher = with_routes(network(), ("clean", "adv"))
    x = images(2, 1, 8, 8)
    net(x, "shared")
    net.teacher(x, "adv")
    with pytest.raises(ValueError, match="no route 'shared'"):
        net.teacher(x, "shared")


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_a_follower_moves_by_its_momentum_and_keeps_its_statistics(momentum):
    leader, follower = network(), network()
    leader.train()(images(6, 1, 8, 8), "clean")
    with torch.no_grad():
        for p in leader.parameters():
            p.add_(1)
    before = copy.deepcopy(follower.state_dict())
    follower.follow(leader, momentum)
    lead = leader.state_dict()
    for name, value in follower.state_dict().items():
        statistic = "running" in name or "tracked" in name or "normalize" in name
        expected = before[name] if statistic else momentum * before[name] + (1 - momentum) * lead[name]
        assert torch.allclose(value, expected, atol=1e-6), name
