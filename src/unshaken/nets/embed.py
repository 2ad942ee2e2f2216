"""h = g ∘ f and c ∘ f: a head on an encoder, through a route; which encoder, which head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from unshaken.base.keys import Key
from unshaken.base.types import Float
from unshaken.nets import routed
from unshaken.nets.resnet import Stem, resnet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """(x − mean) / std per channel, inside the network, so that pixels are in [0, 1] everywhere else."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Encoder(nn.Module):
    """f: images in [0, 1] (N C H W) to features (N D)."""

    def __init__(self, normalize: Normalize, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.normalize, self.backbone, self.features = normalize, backbone, features

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        return self.backbone(self.normalize(x))


class Network(nn.Module):
    """A head on an encoder: an embedder h = g ∘ f or a classifier c ∘ f.

    `arithmetic` is the context in which the layers compute (the runtime may put a lower precision
    there); what comes out is float32 whatever it is.
    """

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.arithmetic: Callable[[], AbstractContextManager] = nullcontext

    def forward(self, x: Float[Tensor, "... N C H W"], route: str) -> Float[Tensor, "... N D"]:
        """All leading axes are one batch to the batch norms: views are normalised together."""
        routed.take(self, route)
        with self.arithmetic():
            z = self.head(self.encoder(x.flatten(0, -4)))
        return z.float().unflatten(0, x.shape[:-3])


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Eval mode inside, and every module's own mode back outside, whatever happens."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(frozen=True)
class Backbone:
    """Which encoder."""

    name: Literal["resnet18", "resnet34", "resnet50", "resnet-small"] = "resnet18"
    stem: Stem = 32
    """For which side in pixels."""
    channels: int = 3
    """3, or 1 for grey images."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of the normalisation inside the network, one a channel; the ACL family uses ImageNet's for all sets."""
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.channels} channels need as many means and standard deviations, "
                f"not {len(self.mean)} and {len(self.std)}"
            )

    def build(self) -> Encoder:
        net = resnet(self.name, self.stem, self.channels)
        return Encoder(Normalize(self.mean, self.std), net, net.features)


@dataclass(frozen=True)
class Projection:
    """g: a projection head of linear layers, each with a batch norm and, but for the last, a ReLU.

    The first layer has a bias; all are as wide as the features.
    """

    layers: Literal[2, 3] = 3

    def build(self, features: int) -> nn.Module:
        parts: list[nn.Module] = []
        for k in range(self.layers):
            parts += [nn.Linear(features, features, bias=k == 0), nn.BatchNorm1d(features), nn.ReLU(inplace=True)]
        return nn.Sequential(*parts[:-1])


def zero_classifier(features: int, classes: int) -> nn.Linear:
    """c: a linear layer that starts at zero, as the field's fine-tuning does, so that no seed enters it."""
    layer = nn.Linear(features, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def born(build: Callable[[], nn.Module], key: Key) -> nn.Module:
    """What `build` makes with initial weights that depend on the key alone, on the CPU so that devices agree.

    Layers draw from the global generator; it is put back as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key.number)  # torch.manual_seed would seed the GPUs' generators too
        return build()
