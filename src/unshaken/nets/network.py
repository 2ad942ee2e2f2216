"""A network: a head on an encoder (h = g ∘ f or c ∘ f), with routes and possibly a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.base.shared_batch import whole_batch
from unshaken.base.types import Float
from unshaken.nets.dual_bn import set_route

M = TypeVar("M", bound=nn.Module)


class Normalize(nn.Module):
    """(x − mean) / std per channel, inside the network, so that pixels are in [0, 1] everywhere else."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Encoder(nn.Module):
    """The encoder f, from images in [0, 1] (N C H W) to features (N D)."""

    def __init__(self, normalize: Normalize, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.normalize, self.backbone, self.features = normalize, backbone, features

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        return self.backbone(self.normalize(x))


class MethodState(nn.Module):
    """Scalars that a method keeps between steps; they are saved with the parameters."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.zeros(()))


class Computation(ABC):
    """A way to compute the layers of a network. All ways give equal results except for rounding.

    precision  the type of number that the layers compute in
    """

    precision: torch.dtype

    @abstractmethod
    def encoder(self, encoder: Encoder, route: str) -> Encoder:
        """Return the encoder, or a faster one that computes the same through this route."""

    @abstractmethod
    def run(self, layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N C H W"]) -> Tensor:
        """Return layers(x), computed in this way and precision."""

    @abstractmethod
    def while_frozen(self) -> Computation:
        """Return the computation to use while no parameter of the network changes."""

    @abstractmethod
    def without_folding(self) -> Computation:
        """Return the same computation, but never with batch norms folded into convolutions."""


@dataclass(frozen=True)
class DirectComputation(Computation):
    """Call the layers as they are. compute/computation.py has faster ways."""

    precision: torch.dtype = torch.float32

    def encoder(self, encoder: Encoder, route: str) -> Encoder:
        return encoder

    def run(self, layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N C H W"]) -> Tensor:
        return layers(x)

    def while_frozen(self) -> Computation:
        return self

    def without_folding(self) -> Computation:
        return self


class Network(nn.Module):
    """A head on an encoder: an embedder h = g ∘ f or a classifier c ∘ f. Outputs are float32.

    While processes share a batch (base/shared_batch.py), each gives it own images and gets the outputs of all of them.

    teacher      another network that the method uses; it gets no gradient
    memory       scalars that the method keeps between steps
    computation  the way to compute the layers; the options --runtime.* choose it (compute/runtime.py)
    """

    def __init__(self, encoder: Encoder, head: nn.Module, teacher: Network | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.teacher = encoder, head, teacher
        self.memory: MethodState | None = None
        self.computation: Computation = DirectComputation()

    def forward(self, x: Float[Tensor, "... N C H W"], route: str) -> Float[Tensor, "... N E"]:
        """Return h(x) through a route, "adv" or "clean".

        Batch norms treat all leading axes as one batch, so all views are normalised together.
        """
        set_route(self.head, route)
        encoder = self._encoder(route)
        return self._run(lambda images: self.head(encoder(images)), x)

    def features(self, x: Float[Tensor, "... N C H W"], route: str) -> Float[Tensor, "... N D"]:
        """Return f(x), the features that the head gets."""
        return self._run(self._encoder(route), x)

    def _encoder(self, route: str) -> Encoder:
        set_route(self.encoder, route)
        return self.computation.encoder(self.encoder, route)

    def _run(self, layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        # (V, N, C, H, W) becomes (V·N, C, H, W) for the layers, and is split again afterwards
        own = self.computation.run(layers, x.flatten(0, -4)).float().unflatten(0, x.shape[:-3])
        return whole_batch(own, -2)

    def follow(self, leader: Network, momentum: float) -> None:
        """Average: θ ← momentum · θ + (1 − momentum) · θ_leader. Statistics of batch norms stay as they are."""
        for name in ("encoder", "head"):
            own, leaders = (list(getattr(net, name).parameters()) for net in (self, leader))
            with torch.no_grad():
                torch._foreach_lerp_(own, leaders, 1 - momentum)


def device_of(net: nn.Module) -> torch.device:
    """Return the device of a network's parameters; the CPU if it has none."""
    return next(net.parameters(), torch.empty(0)).device


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network in eval mode inside the block, and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Put a network in eval mode without parameter gradients inside the block, and restore everything afterwards.

    Parameters must not change inside the block, which lets each network in it use a faster computation.
    """
    learning = [p for p in net.parameters() if p.requires_grad]
    networks = [(m, m.computation) for m in net.modules() if isinstance(m, Network)]
    try:
        for p in learning:
            p.requires_grad_(False)
        for network, computation in networks:
            network.computation = computation.while_frozen()
        with evaluating(net):
            yield
    finally:
        for network, computation in networks:
            network.computation = computation
        for p in learning:
            p.requires_grad_(True)


def seeded(build: Callable[[], M], key: Key) -> M:
    """Call `build` so that the initial weights depend on the key alone. `build` must use the CPU.

    Layers draw their weights from the global generator; its state is restored afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key.number)  # torch.manual_seed would seed the GPUs' generators too
        return build()
