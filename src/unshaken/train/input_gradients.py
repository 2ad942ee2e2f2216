"""Norms of a loss's input gradients, for each image of a mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unshaken.base.types import Float
from unshaken.nets.network import Computation, Encoder, Network


def input_gradient_norms(net: Network, loss: Callable[[], Float[Tensor, ""]], images: int) -> Float[Tensor, "N"]:
    """Return ‖∂L/∂x_i‖ of each image i of a mini-batch, over all views of it that the network is given.

        ‖∂L/∂x_i‖² = Σ over calls and views v of ‖∂L/∂x_vi‖²

    An attacked view is an input of its own: the attack is not differentiated, and the calls within it do not count. The
    rows of a call are its leading axes as one batch, the images last of them, so row r belongs to image r mod `images`.
    """
    with record_inputs(net) as inputs:
        total = loss()
        grads = torch.autograd.grad(total, inputs, allow_unused=True)
    square = total.new_zeros(images)
    for grad in grads:
        if grad is not None:
            square += grad.float().unflatten(0, (-1, images)).square().flatten(2).sum((0, 2))
    return square.sqrt()


@contextmanager
def record_inputs(net: Network) -> Iterator[list[Float[Tensor, "_ C H W"]]]:
    """Record the images that the network is given in the block, outside of attacks; each gets a gradient."""
    before, inputs = net.computation, []
    net.computation = RecordingComputation(before, inputs)
    try:
        yield inputs
    finally:
        net.computation = before


@dataclass(frozen=True)
class RecordingComputation(Computation):
    """Compute as `inner` does, and record the images. Attacks run `while_frozen`, and are not recorded."""

    inner: Computation
    inputs: list[Tensor] = field(compare=False)

    @property
    def precision(self) -> torch.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.precision

    def encoder(self, encoder: Encoder, route: str) -> Encoder:
        return self.inner.encoder(encoder, route)

    def run(self, layers: Callable[[Tensor], Tensor], x: Float[Tensor, "N C H W"]) -> Tensor:
        if torch.is_grad_enabled():
            x = x if x.requires_grad else x.detach().requires_grad_()
            self.inputs.append(x)
        return self.inner.run(layers, x)

    def while_frozen(self) -> Computation:
        return self.inner.while_frozen()

    def without_folding(self) -> Computation:
        return RecordingComputation(self.inner.without_folding(), self.inputs)
