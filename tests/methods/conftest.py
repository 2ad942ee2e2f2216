"""A small routed network whose routes differ, a batch, and a record of every forward pass."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection
from unshaken.nets.network import Network, seeded

N = 6


@dataclass
class Call:
    """One forward pass: what went in, through which route, in which modes, and what came out."""

    x: Tensor
    route: str
    modes: set[bool]
    z: Tensor


@pytest.fixture
def batch() -> Batch:
    rng = Key("batch").on("cpu")
    views, image = torch.rand(2, N, 1, 8, 8, generator=rng), torch.rand(N, 1, 8, 8, generator=rng)
    return Batch(views, image, None, torch.arange(N))


@pytest.fixture
def net(batch: Batch) -> Network:
    def build() -> Network:
        encoder = Backbone("resnet-small", 8, 1, (0.5,), (0.25,)).build()
        return Network(encoder, Projection(2).build(encoder.features))

    net = with_routes(seeded(build, Key(0)), ("clean", "adv")).train()
    for route, x in (("clean", batch.views), ("adv", batch.views.square())):
        net(x, route)
    rng = Key("scale").on("cpu")
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".routes." in name:
                p.add_(torch.empty_like(p).uniform_(-0.3, 0.3, generator=rng))
    return net


@pytest.fixture
def student() -> Network:
    """One route, and a teacher that is another network."""

    def build() -> Network:
        encoder = Backbone("resnet-small", 8, 1, (0.5,), (0.25,)).build()
        return Network(encoder, nn.Identity())

    net = with_routes(seeded(build, Key(0)), ("shared",))
    net.teacher = seeded(build, Key(1))
    net.teacher(torch.rand(6, 1, 8, 8, generator=Key(2).on("cpu")), "clean")
    return net


@pytest.fixture
def weak(batch) -> Batch:
    return Batch(batch.views[:1], batch.image, None, batch.index)


@pytest.fixture
def calls(net: Network) -> list[Call]:
    made: list[Call] = []

    def note(used: Network, given: tuple[Tensor, str], z: Tensor) -> None:
        if used is net:  # and not a copy of it
            made.append(Call(given[0], given[1], {m.training for m in net.modules()}, z))

    net.register_forward_hook(note)
    return made


@pytest.fixture
def clock() -> Clock:
    """The first update of epoch 301 of 1000: DynACL's strength is 0.7 and its ω (2/3)·0.3."""
    return Clock(step=3000, epoch=300, time=300.1, epochs=1000)
