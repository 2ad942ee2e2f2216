"""Gradients of many items by the linear layers of a head, as factors if these are smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from unshaken.base.types import Float, Int

Theta = dict[str, Tensor]
"""Parameters of a head by name: weights and biases of its linear layers. Gradients have the same names."""

BLOCK = 2**24
"""Numbers that an inner product may allocate besides the gradients: 64 MB."""


class Layer(ABC):
    """∂L/∂[W b] of n items, for a linear layer y = [W b] [a 1]ᵀ.

    O is the number of outputs, I that of inputs, which includes the 1 of a bias.
    """

    @abstractmethod
    def along(self, direction: Float[Tensor, "O I"], items: Int[Tensor, "m"] | slice) -> Float[Tensor, "m"]:
        """Return ⟨q_k, direction⟩ for the given items."""

    @abstractmethod
    def between(self, items: Int[Tensor, "m"]) -> Float[Tensor, "n m"]:
        """Return ⟨q_k, q_l⟩ of all items k with the given items l."""

    @abstractmethod
    def of(self, item: int) -> Float[Tensor, "O I"]:
        """Return q_k of one item."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes of memory that the gradients take."""


@dataclass(frozen=True, eq=False)
class Factors(Layer):
    """q_k = Σ_r D_kr A_krᵀ, from rows A of the layer's input and D of the loss's derivative by its output.

    The sum is never multiplied out: ⟨q_k, G⟩ = Σ_r D_kr · (G A_kr). Items with fewer rows than others have zeros.
    """

    inputs: Float[Tensor, "n R I"]
    outputs: Float[Tensor, "n R O"]

    def along(self, direction: Float[Tensor, "O I"], items: Int[Tensor, "m"] | slice) -> Float[Tensor, "m"]:
        inputs, outputs = self.inputs[items], self.outputs[items]
        block = max(1, BLOCK // max(1, outputs[:1].numel()))
        parts = zip(inputs.split(block), outputs.split(block), strict=True)
        return torch.cat([((a @ direction.T) * d).sum((1, 2)) for a, d in parts])

    def between(self, items: Int[Tensor, "m"]) -> Float[Tensor, "n m"]:
        a, d = (rows[items].flatten(0, 1) for rows in (self.inputs, self.outputs))
        block = max(1, BLOCK // max(1, self.inputs.shape[1] * len(a)))
        parts = zip(self.inputs.split(block), self.outputs.split(block), strict=True)
        shape = (len(items), self.inputs.shape[1])
        return torch.cat([((A @ a.T) * (D @ d.T)).unflatten(-1, shape).sum((1, 3)) for A, D in parts])

    def of(self, item: int) -> Float[Tensor, "O I"]:
        return self.outputs[item].T @ self.inputs[item]

    @property
    def bytes(self) -> int:
        return self.inputs.nbytes + self.outputs.nbytes


@dataclass(frozen=True, eq=False)
class Matrices(Layer):
    """q_k as a matrix, for items of many rows."""

    matrix: Float[Tensor, "n O I"]

    def along(self, direction: Float[Tensor, "O I"], items: Int[Tensor, "m"] | slice) -> Float[Tensor, "m"]:
        return self.matrix[items].flatten(1) @ direction.flatten()

    def between(self, items: Int[Tensor, "m"]) -> Float[Tensor, "n m"]:
        return self.matrix.flatten(1) @ self.matrix[items].flatten(1).T

    def of(self, item: int) -> Float[Tensor, "O I"]:
        return self.matrix[item]

    @property
    def bytes(self) -> int:
        return self.matrix.nbytes


def concatenate(layers: list[Layer]) -> Layer:
    """Return the gradients of one layer for the items of all these, one after the other."""
    if all(isinstance(layer, Matrices) for layer in layers):
        return Matrices(torch.cat([layer.matrix for layer in layers]))  # pyright: ignore[reportAttributeAccessIssue]
    rows = max(layer.inputs.shape[1] for layer in layers)  # pyright: ignore[reportAttributeAccessIssue]
    return Factors(
        torch.cat([pad(layer.inputs, (0, 0, 0, rows - layer.inputs.shape[1])) for layer in layers]),  # pyright: ignore[reportAttributeAccessIssue]
        torch.cat([pad(layer.outputs, (0, 0, 0, rows - layer.outputs.shape[1])) for layer in layers]),  # pyright: ignore[reportAttributeAccessIssue]
    )


def sum_samples(samples: Factors, most: int) -> Layer:
    """Return the sum of the gradients of samples, as one item.

    It is a matrix if that is smaller than factors for an item of `most` samples.
    """
    (_, rows, inputs), outputs = samples.inputs.shape, samples.outputs.shape[2]
    item = Factors(samples.inputs.flatten(0, 1)[None], samples.outputs.flatten(0, 1)[None])
    return Matrices(item.of(0)[None]) if most * rows * (inputs + outputs) > inputs * outputs else item


@dataclass(frozen=True, eq=False)
class Gradients:
    """q_k = ∇_θ L(item k; θ), and the images of each item.

    index   indices of the images of all items, one item after the other
    sizes   number of images of each item
    layers  gradients by the name of the linear layer in the head
    biased  names of the layers whose last input is the 1 of a bias
    """

    index: Int[Tensor, "N"]
    sizes: tuple[int, ...]
    layers: dict[str, Layer]
    biased: frozenset[str]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def bytes(self) -> int:
        """Bytes of memory that the gradients take."""
        return sum(layer.bytes for layer in self.layers.values())

    def images(self, item: int) -> Int[Tensor, "size"]:
        """Return the indices of the images of one item."""
        begin = sum(self.sizes[:item])
        return self.index[begin : begin + self.sizes[item]]

    def along(self, direction: Theta, items: Int[Tensor, "m"] | None = None) -> Float[Tensor, "m"]:
        """Return ⟨q_k, direction⟩ over the whole head, for the given items, or for all."""
        which = slice(None) if items is None else items
        parts = [layer.along(self._matrix(direction, name), which) for name, layer in self.layers.items()]
        return torch.stack(parts).sum(0)

    def between(self, items: Int[Tensor, "m"]) -> Float[Tensor, "n m"]:
        """Return ⟨q_k, q_l⟩ of all items k with the given items l."""
        return sum(layer.between(items) for layer in self.layers.values())  # pyright: ignore[reportReturnType]

    def norms(self) -> Float[Tensor, "n"]:
        """Return ‖q_k‖ of all items."""
        blocks = torch.arange(len(self)).split(64)
        squares = [self.between(block)[block].diagonal() for block in blocks]
        return torch.cat(squares).clamp_min(0).sqrt()

    def of(self, item: int) -> Theta:
        """Return q_k of one item, as parameters by name."""
        gradient = {}
        for name, layer in self.layers.items():
            matrix, prefix = layer.of(item), f"{name}." if name else ""
            gradient[prefix + "weight"] = matrix[:, :-1] if name in self.biased else matrix
            if name in self.biased:
                gradient[prefix + "bias"] = matrix[:, -1]
        return gradient

    def _matrix(self, theta: Theta, name: str) -> Float[Tensor, "O I"]:
        prefix = f"{name}." if name else ""
        weight = theta[prefix + "weight"]
        return torch.cat([weight, theta[prefix + "bias"][:, None]], 1) if name in self.biased else weight
