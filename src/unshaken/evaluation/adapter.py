"""Adapter: any callable as a network that returns logits in float32."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.base.types import Float

USUAL = ("logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "scores")
"""Usual names of logits, the likeliest first."""
MASKED = 1e3
"""The logit −∞ of a masked class becomes the lowest finite logit minus this: DLR divides by differences of logits."""


class Adapter(nn.Module):
    """Wraps a module or function that takes images in [0, 1] (N C H W) and returns logits (N K) in some form.

    It may return a tensor, a tuple or list, a mapping, or an object with attributes, such as the ModelOutput of
    transformers. The model runs in its own precision, on a copy of the images, which it may change.

    classes    the number of logits, if it is known: tells logits from other tensors
    gradients  gradients come through; if not, the model runs without recording any
    name       the name of the output that holds the logits, once it is found
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.classes: int | None = None
        self.gradients = True
        self.name: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's first floating parameter or buffer; float32 if it has none."""
        if not isinstance(self.model, nn.Module):
            return torch.float32
        tensors = (*self.model.parameters(), *self.model.buffers())
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        if not self.gradients:
            with torch.no_grad():
                return self._logits(self.model(x.detach().to(self.dtype, copy=True)), len(x))
        return self._logits(self.model(x.to(self.dtype, copy=True)), len(x))

    def _logits(self, answer: Any, n: int) -> Tensor:
        if isinstance(answer, Tensor):
            return _unmasked(answer)
        found = {name: tensor for name, tensor in _tensors(answer) if tensor.ndim == 2 and len(tensor) == n}
        if self.name not in found:
            self.name = self._find_logits(found, answer)
        return _unmasked(found[self.name])

    def _find_logits(self, found: dict[str, Tensor], answer: Any) -> str:
        """Return the name of the logits: by the number of classes, then by name, then the first. A guess is printed."""
        fitting = {name for name, tensor in found.items() if self.classes in (None, tensor.shape[1])}
        named = [name for word in USUAL for name in found if name.rpartition(".")[2].lower() == word]
        order = [name for name in (*named, *found) if name in fitting]
        if not order:
            seen = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in _tensors(answer)) or "no tensor"
            wanted = f"(N, {self.classes})" if self.classes else "(N, K)"
            raise ValueError(
                f"the network returns a {type(answer).__name__} with {seen}, and none of these can be logits {wanted}"
            )
        if len(fitting) > 1:
            others = ", ".join(name for name in found if name != order[0])
            print(f"note: of the network's outputs {order[0]} is taken for the logits, not {others}", file=sys.stderr)
        return order[0]

    def try_gradients(self, x: Float[Tensor, "n C H W"]) -> None:
        """Find out whether gradients come through from the logits to the pixels."""
        self.gradients = True
        try:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                z = self(x)
                found = torch.autograd.grad(z.sum(), x, allow_unused=True) if z.requires_grad else (None,)
            self.gradients = found[0] is not None
        except (RuntimeError, TypeError):  # .numpy() of what records gradients, or a step that has no derivative
            self.gradients = False
            self(x)  # an error that has nothing to do with gradients is raised here


def _unmasked(z: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Return logits in float32, with −∞ replaced by a low finite number: attacks divide by differences of logits."""
    z = z.float()
    masked = z == -torch.inf
    if z.ndim != 2 or not masked.any():
        return z
    lowest = z.detach().masked_fill(masked, torch.inf).amin(1, keepdim=True) - MASKED
    return torch.where(masked & lowest.isfinite(), lowest, z)


def _tensors(answer: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in an output, with its path as a name."""
    if isinstance(answer, Tensor):
        yield name or "answer", answer
    elif isinstance(answer, Mapping):
        for key, value in answer.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(answer, (tuple, list)):
        fields = getattr(answer, "_fields", None) or [f"[{k}]" for k in range(len(answer))]
        for field, value in zip(fields, answer, strict=False):
            yield from _tensors(value, f"{name}.{field}" if name and field[0] != "[" else f"{name}{field}")
    elif hasattr(answer, "__dict__"):
        yield from _tensors({key: value for key, value in vars(answer).items() if isinstance(value, Tensor)}, name)
