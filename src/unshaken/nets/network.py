"""A network: a head on an encoder (h = g ∘ f or c ∘ f), with routes and possibly a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from unshaken.base.rng import Key
from unshaken.base.types import Float
from unshaken.nets import dual_bn as routed
from unshaken.nets.activation_checkpointing import in_chunks

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


class Network(nn.Module):
    """A head on an encoder: an embedder h = g ∘ f or a classifier c ∘ f.

    teacher     another network that the method looks up to; no gradient reaches it
    memory      scalars of the method's own
    arithmetic  the context in which the layers compute (the runtime may put a lower precision
                there); what comes out is float32 whatever it is
    precision   of that context
    fold        how the encoder's batch norms of a route move into its convolutions, where nothing
                is to change for a while (`frozen`); None: they stay
    at_most     views that go through it at a time there; 0: all
    """

    def __init__(self, encoder: Encoder, head: nn.Module, teacher: Network | None = None) -> None:
        super().__init__()
        self.encoder, self.head, self.teacher = encoder, head, teacher
        self.memory: MethodState | None = None
        self.arithmetic: Callable[[], AbstractContextManager] = nullcontext
        self.precision = torch.float32
        self.fold: Callable[[Encoder, str], Encoder] | None = None
        self.folded: dict[str, Encoder] | None = None
        self.at_most = 0

    def forward(self, x: Float[Tensor, "... N C H W"], route: str) -> Float[Tensor, "... N D"]:
        """Return h(x). Batch norms treat all leading axes as one batch, so all views are normalised together."""
        routed.set_route(self.head, route)
        encoder = self._encoder(route)
        return self._through(lambda x: self.head(encoder(x)), x)

    def features(self, x: Float[Tensor, "... N C H W"], route: str) -> Float[Tensor, "... N D"]:
        """Return f(x), the features below the head."""
        return self._through(self._encoder(route), x)

    def _encoder(self, route: str) -> Encoder:
        routed.set_route(self.encoder, route)
        if self.folded is None:
            return self.encoder
        if route not in self.folded:
            self.folded[route] = self.fold(self.encoder, route)
        return self.folded[route]

    def _through(self, layers: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        flat, apart = x.flatten(0, -4), self.at_most and self.folded is not None
        with self.arithmetic():
            z = in_chunks(layers, flat, self.at_most) if apart else layers(flat)
        return z.float().unflatten(0, x.shape[:-3])

    def follow(self, leader: Network, momentum: float) -> None:
        """Update the parameters, θ ← momentum · θ + (1 − momentum) · θ_leader; running statistics do not move."""
        for name in ("encoder", "head"):
            own, leaders = (list(getattr(net, name).parameters()) for net in (self, leader))
            with torch.no_grad():
                torch._foreach_lerp_(own, leaders, 1 - momentum)


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
    """Eval mode inside, in which no parameter changes or asks for a gradient; all as it was outside.

    Each network within may then compute folded, which is the same but for rounding.
    """
    asking = [p for p in net.parameters() if p.requires_grad]
    networks = [m for m in net.modules() if isinstance(m, Network) and m.fold and m.folded is None]
    try:
        for p in asking:
            p.requires_grad_(False)
        for network in networks:
            network.folded = {}
        with evaluating(net):
            yield
    finally:
        for network in networks:
            network.folded = None
        for p in asking:
            p.requires_grad_(True)


def seeded(build: Callable[[], M], key: Key) -> M:
    """Call `build` so that the initial weights depend on the key alone. It must build on the CPU.

    Layers draw their weights from the global generator; its state is restored afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key.number)  # torch.manual_seed would seed the GPUs' generators too
        return build()
