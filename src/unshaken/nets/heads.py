"""Heads on an encoder: projections, classifiers, both, or none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from unshaken.base.ranges import Count, ranged
from unshaken.base.types import Float


@dataclass(frozen=True)
class Head(ABC):
    """The choice of a head. The numbers of features and classes are given when it is built."""

    @abstractmethod
    def build(self, features: int, classes: tuple[int, ...]) -> nn.Module:
        """Build a module from features (N D) to an embedding or logits.

        classes  the number of classes for each set of labels: (10,); (2, 10) for two clusterings; () without labels
        """


@dataclass(frozen=True)
@ranged
class Projection(Head):
    """The projection g: linear layers with ReLUs between them, and batch norms.

    As in the ACL family's code, the first layer has a bias; later layers have one if no batch norm follows them.
    """

    layers: Literal[2, 3] = 3
    """Number of linear layers."""
    hidden: Count | None = None
    """Width of the hidden layers; None: the width of the features."""
    out: Count | None = None
    """Width of the embedding; None: the width of the features."""
    norm: Literal["all", "hidden", "none"] = "all"
    """Layers that are followed by a batch norm: all, all except the last (hidden), or none."""

    def build(self, features: int, classes: tuple[int, ...] = ()) -> nn.Module:
        widths = [features, *[self.hidden or features] * (self.layers - 1), self.out or features]
        parts: list[nn.Module] = []
        for k in range(self.layers):
            last = k == self.layers - 1
            normed = self.norm == "all" or (self.norm == "hidden" and not last)
            parts.append(nn.Linear(widths[k], widths[k + 1], bias=k == 0 or not normed))
            parts += [nn.BatchNorm1d(widths[k + 1])] if normed else []
            parts += [] if last else [nn.ReLU(inplace=True)]
        return nn.Sequential(*parts)


@dataclass(frozen=True)
class NoHead(Head):
    """No head: the features are the embedding."""

    def build(self, features: int, classes: tuple[int, ...] = ()) -> nn.Module:
        return nn.Identity()


class FeaturesWithMultiplier(nn.Module):
    """The features as they are, and beside them a small network that gives an image its multiplier, a number ≥ 0."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return x

    def multiplier(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N"]:
        """Return λ = softplus(F(z/‖z‖)) for each embedding of the batch.

        Embeddings of some encoders are 40 long, and with them as they are λ becomes a thousand in a hundred steps.
        """
        return nn.functional.softplus(self.net(nn.functional.normalize(z, dim=-1))[:, 0])


@dataclass(frozen=True)
@ranged
class Multiplier(Head):
    """No head, but LORE's multiplier of Lagrange: a network of two layers on the original's features."""

    hidden: Count = 512
    """Width of the hidden layer."""

    def build(self, features: int, classes: tuple[int, ...] = ()) -> nn.Module:
        return FeaturesWithMultiplier(features, self.hidden)


@dataclass(frozen=True)
class LinearClassifier(Head):
    """A linear classifier c, for images with one set of labels."""

    def build(self, features: int, classes: tuple[int, ...]) -> nn.Module:
        if len(classes) != 1:
            raise ValueError(f"a classifier needs one set of labels, but these images have {len(classes)}")
        return nn.Linear(features, classes[0])


class JointHead(nn.Module):
    """A projection and linear classifiers on the same features; `split` separates their outputs."""

    def __init__(self, projection: nn.Module, projection_width: int, features: int, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = (projection_width, *classes)
        self.projection = projection
        self.classifiers = nn.ModuleList(nn.Linear(features, count) for count in classes)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        return torch.cat([self.projection(x), *(classifier(x) for classifier in self.classifiers)], dim=-1)

    def split(self, out: Float[Tensor, "... E"]) -> tuple[Tensor, ...]:
        """Split an output into the projection and the logits for each set of labels."""
        return out.split(self.widths, dim=-1)


@dataclass(frozen=True)
class ProjectionWithClassifiers(Head):
    """A projection, and a linear classifier for each set of labels, on the same features."""

    projection: Projection = Projection(layers=2, out=128, norm="hidden")

    def build(self, features: int, classes: tuple[int, ...]) -> nn.Module:
        return JointHead(self.projection.build(features), self.projection.out or features, features, classes)


AnyHead = Annotated[Head, Projection | NoHead | Multiplier | LinearClassifier | ProjectionWithClassifiers]
"""Any of these heads; the command line selects one by its name."""


def zero_classifier(features: int, classes: int) -> nn.Linear:
    """Build a linear classifier with zero weights, as the papers' fine-tuning code does, so that it needs no seed."""
    layer = nn.Linear(features, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
