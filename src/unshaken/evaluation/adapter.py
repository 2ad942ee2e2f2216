"""Any callable as a network that an evaluation can ask: logits out of whatever it answers, float32, its input left alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.base.types import Float

USUAL = ("logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "scores")
"""What people call logits, the likeliest word first."""
MASKED = 1e3
"""By how much the logit of a masked class, minus infinity, lies below the lowest other: DLR divides by differences."""


class Adapter(nn.Module):
    """A module, or a plain function, that takes images in [0, 1] (N C H W) and whose answers hold logits (N K).

    The answer may be a tensor, a tuple or list, a mapping, or an object with attributes, such as the ModelOutput of
    transformers. The model is asked in its own precision, on a copy of the images that it may change.

    classes      how many logits an image has, if it is known: tells logits from other tensors
    gradients    whether gradients come through; where they do not, the model is asked without recording any
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.classes: int | None = None
        self.gradients = True
        self.place: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's first floating parameter or buffer; float32 if there is none."""
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
        if self.place not in found:
            self.place = self._chosen(found, answer)
        return _unmasked(found[self.place])

    def _chosen(self, found: dict[str, Tensor], answer: Any) -> str:
        """The tensor that is the logits: by its number of classes, by its name, by its place; a guess is said."""
        fitting = {name for name, tensor in found.items() if self.classes in (None, tensor.shape[1])}
        named = [name for word in USUAL for name in found if name.rpartition(".")[2].lower() == word]
        order = [name for name in (*named, *found) if name in fitting]
        if not order:
            seen = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in _tensors(answer)) or "no tensor"
            wanted = f"(N, {self.classes})" if self.classes else "(N, K)"
            raise ValueError(
                f"the network's answer is a {type(answer).__name__} with {seen}, and none of that is logits {wanted}"
            )
        if len(fitting) > 1:
            others = ", ".join(name for name in found if name != order[0])
            print(
                f"note: of what the network answers {order[0]} is taken for the logits, not {others}", file=sys.stderr
            )
        return order[0]

    def try_gradients(self, x: Float[Tensor, "n C H W"]) -> None:
        """Find out whether gradients come through, from the logits to the pixels."""
        self.gradients = True
        try:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                z = self(x)
                found = torch.autograd.grad(z.sum(), x, allow_unused=True) if z.requires_grad else (None,)
            self.gradients = found[0] is not None
        except (RuntimeError, TypeError):  # .numpy() of what records gradients, or a step that has no derivative
            self.gradients = False
            self(x)  # what is wrong without gradients too is said here


def _unmasked(z: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """Float32, minus infinity as a low finite number: attacks divide by differences of logits."""
    z = z.float()
    masked = z == -torch.inf
    if z.ndim != 2 or not masked.any():
        return z
    lowest = z.detach().masked_fill(masked, torch.inf).amin(1, keepdim=True) - MASKED
    return torch.where(masked & lowest.isfinite(), lowest, z)


def _tensors(answer: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in an answer, with the way to it."""
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
