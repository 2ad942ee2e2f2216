"""Pseudo-labels: k-means clusters of an encoder's features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.types import Float, Int
from unshaken.nets.network import Encoder, evaluating

if TYPE_CHECKING:
    from sklearn.cluster import KMeans


@torch.no_grad()
def features(encoder: Encoder, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
    """Return the features of un-augmented images in [0, 1], in eval mode."""
    with evaluating(encoder):
        return encoder(images).float()


def clusters(f: Float[Tensor, "N D"], counts: tuple[int, ...], key: Key) -> Int[Tensor, "N L"]:
    """Return the cluster of each image, in one column for each number of clusters in `counts`.

    This is Euclidean k-means (scikit-learn, k-means++ seeding, tolerance 1e-4). ValueError if there are fewer images
    than clusters.
    """
    if len(f) < max(counts):
        raise ValueError(f"{len(f)} images cannot form {max(counts)} clusters; ask for fewer by --clusters")
    return torch.stack([torch.from_numpy(kmeans(f, count, key).labels_).long() for count in counts], dim=1)


def kmeans(f: Float[Tensor, "N D"], count: int, key: Key) -> KMeans:
    """Fit scikit-learn's k-means of `count` clusters; its random state depends on the key and the count."""
    from sklearn.cluster import KMeans  # imported here, because it takes a second

    seed = (key / count).number % 2**32  # the range that scikit-learn accepts
    return KMeans(count, n_init=1, random_state=seed).fit(f.cpu().numpy())  # pyright: ignore[reportArgumentType]
