"""Measures of a representation: effective rank, alignment, uniformity, and how far an attack moves it; and kNN."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.types import Float, Int


def effective_rank(f: Float[Tensor, "N D"]) -> float:
    """Return exp(−Σ_k p_k log p_k),   p = σ / Σσ, of the singular values σ of features.

    This is RankMe (Garrido et al., ICML 2023, arXiv:2210.02885): D if all directions are used alike, 1 if a single one
    is. It needs more images than dimensions to say much about all of them.
    """
    f = f.double()
    gram = f.T @ f if f.shape[0] > f.shape[1] else f @ f.T
    sigma = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = sigma / sigma.sum() + 1e-7
    return float((-(p * p.log()).sum()).exp())


def alignment(z: Float[Tensor, "2 N D"]) -> float:
    """Return E ‖u − u'‖² of the normalised embeddings of two views of each image (arXiv:2005.10242): 0 at best."""
    u = normalize(z.float(), dim=-1)
    return float((u[0] - u[1]).square().sum(-1).mean())


def uniformity(z: Float[Tensor, "N D"]) -> float:
    """Return log E exp(−2 ‖u − v‖²) over pairs of images (arXiv:2005.10242): 0 for a single point, lower if spread."""
    return float(torch.pdist(normalize(z.float(), dim=-1)).square().mul(-2).exp().mean().log())


def displacement(f_adv: Float[Tensor, "N D"], f: Float[Tensor, "N D"]) -> float:
    """Return the median of ‖f(x̃) − f(x)‖ over the median distance of two images: 1 if an attack moves x that far."""
    return float((f_adv - f).norm(dim=-1).median() / torch.pdist(f.float()).median().clamp_min(1e-12))


def neighbour_flips(f_adv: Float[Tensor, "N D"], f: Float[Tensor, "N D"], bank: Float[Tensor, "M D"]) -> float:
    """Return the share of images whose nearest neighbour in the bank, by cosine, is another one after the attack."""
    before, after = (nearest(each, bank, 1)[:, 0] for each in (f, f_adv))
    return float((before != after).float().mean())


def knn_accuracy(
    f: Float[Tensor, "N D"],
    y: Int[Tensor, "N"],
    bank: Float[Tensor, "M D"],
    labels: Int[Tensor, "M"],
    k: int = 20,
    tau: float = 0.07,
) -> float:
    """Return the accuracy of k nearest neighbours in the bank, weighted by exp(cos / τ) (arXiv:1805.01978)."""
    k = min(k, len(bank))
    similar = normalize(f.float(), dim=-1) @ normalize(bank.float(), dim=-1).T
    top = similar.topk(k, dim=1)
    votes = torch.zeros(len(f), int(labels.max()) + 1, device=f.device)
    votes.scatter_add_(1, labels[top.indices], (top.values / tau).exp())
    return float((votes.argmax(1) == y).float().mean())


def nearest(f: Float[Tensor, "N D"], bank: Float[Tensor, "M D"], k: int) -> Int[Tensor, "N k"]:
    """Return the indices of the k nearest features in the bank, by cosine."""
    return (normalize(f.float(), dim=-1) @ normalize(bank.float(), dim=-1).T).topk(k, dim=1).indices
