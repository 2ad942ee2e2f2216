"""A small routed classifier whose routes differ, a labelled batch, and a record of every forward pass."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network, seeded

N, CLASSES = 6, 4


@dataclass
class Call:
    """One forward pass: what went in, through which route, in which modes of the encoder, and the logits."""

    x: Tensor
    route: str
    modes: set[bool]
    logits: Tensor


@pytest.fixture
def batch() -> Batch:
    x = torch.rand(N, 1, 8, 8, generator=Key("batch").on("cpu"))
    return Batch(x[None], x, torch.arange(N) % CLASSES, torch.arange(N))


@pytest.fixture
def net(batch: Batch) -> Network:
    def build() -> Network:
        encoder = Backbone("resnet-small", 8, 1, (0.5,), (0.25,)).build()
        return Network(encoder, zero_classifier(encoder.features, CLASSES))

    net, rng = with_routes(seeded(build, Key(0)), ("clean", "adv")).train(), Key("w").on("cpu")
    nn.init.uniform_(net.head.weight, -0.5, 0.5, generator=rng)
    for route, x in (("clean", batch.image), ("adv", batch.image.square())):
        net(x, route)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".routes." in name:
                p.add_(torch.empty_like(p).uniform_(-0.3, 0.3, generator=rng))
    return net


@pytest.fixture
def calls(net: Network) -> list[Call]:
    calls: list[Call] = []

    def note(used: Network, given: tuple[Tensor, str], logits: Tensor) -> None:
        if used is net:  # and not a copy of it
            calls.append(Call(given[0], given[1], {m.training for m in net.encoder.modules()}, logits))

    net.register_forward_hook(note)
    return calls


@pytest.fixture
def clock() -> Clock:
    return Clock(step=0, epoch=0, time=0.1, epochs=10)
