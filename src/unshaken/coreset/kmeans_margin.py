"""KMeansMargin: images between k-means clusters of their features, and random others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unshaken.base.ranges import Several, Unit, ranged
from unshaken.base.rng import Key
from unshaken.base.types import Float, Int
from unshaken.coreset.objective import SelectionObjective
from unshaken.coreset.selector import Selector, check_budget
from unshaken.methods.pseudo_labels import kmeans


@dataclass(frozen=True)
@ranged
class KMeansMargin(Selector):
    """The images with the smallest margin d₂(x) − d₁(x), and random others.

    d₁ ≤ d₂ are the distances of f(x) to the two nearest centres of k-means on the candidates' features: a small margin
    lies between two clusters. This is LCS-KM of Ghosh, Xu and Zhang, arXiv:2501.10466 (2025), which selects unlabelled
    images for semi-supervised adversarial training; that a fixed share is random keeps images that are far from
    boundaries.
    """

    clusters: Several = 10
    """k, the number of clusters."""
    random_share: Unit = 0.5
    """Share of the selection that is drawn at random from the candidates that the margin does not take."""

    def budget(self, candidates: int) -> int:
        """Return the number of images to pick. ValueError if there are fewer candidates than clusters."""
        if candidates < self.clusters:
            raise ValueError(
                f"{candidates} candidates cannot form {self.clusters} clusters: set clusters to {candidates}"
            )
        return super().budget(candidates)

    def select(self, problem: SelectionObjective, count: int, key: Key) -> Int[Tensor, "count"]:
        check_budget(problem, count)
        order = margins(problem.features(), self.clusters, key / "clusters").argsort(stable=True)
        by_margin = count - round(self.random_share * count)
        others = order[by_margin:]
        drawn = torch.randperm(len(others), generator=(key / "random").on("cpu"))[: count - by_margin]
        return problem.index[torch.cat([order[:by_margin], others[drawn]])]


def margins(f: Float[Tensor, "N D"], clusters: int, key: Key) -> Float[Tensor, "N"]:
    """Return d₂ − d₁ of each image: how much farther the second nearest centre of k-means is than the nearest.

    ValueError if there are fewer images than clusters.
    """
    if len(f) < clusters:
        raise ValueError(f"{len(f)} candidates cannot form {clusters} clusters: set clusters to {len(f)}")
    distances = torch.from_numpy(kmeans(f, clusters, key).transform(f.cpu().numpy()))
    nearest, second = distances.topk(2, dim=1, largest=False).values.T
    return second - nearest
