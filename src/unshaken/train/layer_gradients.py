"""Per-image gradients of a loss with respect to linear layers, as factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unshaken.base.types import Float
from unshaken.coreset.gradients import Factors

Call = tuple[Tensor, Tensor]
"""The input and the output of one call of a layer; or its input and the output's gradient."""


def linear_layers(head: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in head.named_modules() if isinstance(module, nn.Linear)}


def image_factors(
    layers: dict[str, nn.Linear], loss: Callable[[], Float[Tensor, ""]], images: int
) -> dict[str, Factors]:
    """Return, for each layer, every image's contribution to the gradient of a mini-batch's loss.

    All calls of a layer that the loss depends on count; the calls within an attack do not. The rows of a call are the
    network's leading axes as one batch, the images last of them, so row r belongs to image r mod `images`.
    """
    with record_calls(layers) as calls:
        total = loss()
        outputs = [y for made in calls.values() for _, y in made]
        grads = iter(torch.autograd.grad(total, outputs, allow_unused=True))
    used = {name: [(a, next(grads)) for a, _ in made] for name, made in calls.items()}
    return {
        name: factors(layers[name], images, [(a, d) for a, d in rows if d is not None]) for name, rows in used.items()
    }


@contextmanager
def record_calls(layers: dict[str, nn.Linear]) -> Iterator[dict[str, list[Call]]]:
    """Record the inputs and outputs of linear layers, for every call whose output has a gradient."""
    calls: dict[str, list[Call]] = {name: [] for name in layers}

    def record(name: str, given: Tensor, y: Tensor) -> Tensor | None:
        if not y.requires_grad:
            return None
        calls[name].append((given.detach(), y))
        return y.clone()  # later layers may change their input in place, but the gradient is taken with respect to y

    hooks = [
        linear.register_forward_hook(lambda _, given, y, name=name: record(name, given[0], y))  # pyright: ignore[reportArgumentType]
        for name, linear in layers.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def factors(linear: nn.Linear, images: int, calls: list[Call]) -> Factors:
    """Group a layer's inputs and output gradients, given as rows of each call, by image."""
    biased = linear.bias is not None
    inputs = [linear.weight.new_empty(images, 0, linear.in_features + biased)]
    outputs = [linear.weight.new_empty(images, 0, linear.out_features)]
    for a, d in calls:
        ones = [linear.weight.new_ones(len(a), 1)] if biased else []
        inputs.append(torch.cat([a.float(), *ones], 1).unflatten(0, (-1, images)).transpose(0, 1))
        outputs.append(d.float().unflatten(0, (-1, images)).transpose(0, 1))
    return Factors(torch.cat(inputs, 1), torch.cat(outputs, 1))
