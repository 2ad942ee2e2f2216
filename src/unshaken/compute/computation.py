"""Faster ways to compute a network: lower precision, folded batch norms, chunks of a batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unshaken.base.types import Float
from unshaken.compute.bn_folding import BatchNormFolder
from unshaken.nets.activation_checkpointing import in_chunks
from unshaken.nets.network import Computation, Encoder


@dataclass(frozen=True, eq=False)
class FoldingComputation(Computation):
    """Compute layers in a precision, and with folded batch norms while the network is frozen.

    precision  the precision of the layers
    context    makes the context in which layers compute in that precision
    folder     folds the encoder's batch norms; None: never
    at_most    the number of views that go through a frozen network at a time; 0: all
    """

    precision: torch.dtype = torch.float32
    context: Callable[[], AbstractContextManager] = nullcontext
    folder: BatchNormFolder | None = None
    at_most: int = 0

    def encoder(self, encoder: Encoder, route: str) -> Encoder:
        return encoder

    def run(self, layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N C H W"]) -> Tensor:
        with self.context():
            return layers(x)

    def while_frozen(self) -> Computation:
        return FrozenComputation(self, self.folder) if self.folder or self.at_most else self

    def without_folding(self) -> Computation:
        return replace(self, folder=None, at_most=0)


@dataclass(frozen=True, eq=False)
class FrozenComputation(Computation):
    """The computation of a network while it is frozen. Each route is folded when it is first used.

    general  the computation of the same network when it is not frozen
    folder   folds the encoder's batch norms; None: never
    folded   the folded encoder of each route so far
    """

    general: FoldingComputation
    folder: BatchNormFolder | None
    folded: dict[str, Encoder] = field(default_factory=dict)

    @property
    def precision(self) -> torch.dtype:
        return self.general.precision

    def encoder(self, encoder: Encoder, route: str) -> Encoder:
        if self.folder is None:
            return encoder
        if route not in self.folded:
            self.folded[route] = self.folder(encoder, route)
        return self.folded[route]

    def run(self, layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N C H W"]) -> Tensor:
        at_most = self.general.at_most
        with self.general.context():
            return in_chunks(layers, x, at_most) if at_most else layers(x)

    def while_frozen(self) -> Computation:
        return self

    def without_folding(self) -> Computation:
        return self.general.without_folding()
