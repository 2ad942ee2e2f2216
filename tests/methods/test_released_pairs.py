"""A-InfoNCE's released hard negatives, against what its two loss.py compute, row by row."""

from math import exp

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from unshaken.base.rng import Key
from unshaken.losses.contrastive import pairwise_hard_negative
from unshaken.methods.released.ainfonce import advcl_hard_pairs, rocl_hard_pairs

TREES = {"advcl": advcl_hard_pairs, "rocl": rocl_hard_pairs}


def embeddings(*shape: int) -> Tensor:
    return torch.randn(shape, generator=Key(0).on("cpu"))


def released_matrix(z: Tensor, others: Tensor, tau_plus: float, beta: float, tree: str) -> Tensor:
    """The losses of every two of the VN embeddings at τ = 0.5 (VN, VN), in float64."""
    V, N = z.shape[:2]
    at, rows = [(u, k) for u in range(V) for k in range(N)], range(V * N)
    shift = exp(2.0) if tree == "advcl" else 1.0  # the largest logit of a row is the anchor with itself: 1/τ
    a, b = z.double(), others.double()
    similar = [[cosine_similarity(a[at[i]], b[at[j]], dim=0) for j in rows] for i in rows]
    E = torch.stack([torch.stack([(similar[i][j] / 0.5).exp() / shift for j in rows]) for i in rows])
    is_positive = torch.tensor([[at[i][1] == at[j][1] and i != j for j in rows] for i in rows])
    is_negative = torch.tensor([[at[i][1] != at[j][1] for j in rows] for i in rows])
    positive = torch.stack([E[i][is_positive[i]].sum() / (V - 1) for i in rows])
    weights = [[(E[i, j] if is_negative[i, j] else 0 * E[i, j]).add(1e-9) ** beta for j in rows] for i in rows]
    means = [sum(weights[i]) / (V * N) for i in rows]
    count = (N - 1) * V
    losses = []
    for i in rows:
        hard = sum(weights[i][j] * E[i, j] / means[j] for j in rows if is_negative[i, j])  # the mean of row j
        losses.append(((hard - tau_plus * count * positive[i]) / (1 - tau_plus)).clamp(min=count * exp(-2.0)))
    total = positive + torch.stack(losses)
    return -(E / (total[None, :] if tree == "advcl" else total[:, None])).log()


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize(("tau_plus", "beta"), [(0.1, 1.0), (0.12, 2.0), (0.6, 1.0)])
@pytest.mark.parametrize("tree", TREES)
def test_the_released_hard_pairs(tree, tau_plus, beta, stopped):
    z = embeddings(3, 4, 3).requires_grad_()
    others = z.detach() if stopped else z
    matrix = released_matrix(z, others, tau_plus, beta, tree)
    ours = TREES[tree](z, 0.5, tau_plus, beta, others)
    off = ~torch.eye(3, dtype=torch.bool)[..., None].expand(3, 3, 4)
    theirs = matrix.view(3, 4, 3, 4).diagonal(dim1=1, dim2=3)
    assert ours.shape == (3, 3, 4)
    assert not ours[~off].any()
    assert torch.allclose(ours[off].double(), theirs[off], rtol=1e-5, atol=1e-5)
    weight = torch.randn(3, 3, 4, generator=Key(5).on("cpu"))[off]
    (a,) = torch.autograd.grad((weight * ours[off]).sum(), z)
    (b,) = torch.autograd.grad((weight * theirs[off]).sum(), z)
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()) + 1e-6)


def test_the_released_forms_differ_from_the_paper_s():
    z = embeddings(3, 6, 8)
    hcl, advcl, rocl = (
        pairs(z, 0.5, 0.1, 1.0) for pairs in (pairwise_hard_negative, advcl_hard_pairs, rocl_hard_pairs)
    )
    assert (hcl - rocl).abs().max() > 0.01
    assert (advcl - rocl).abs().max() > 0.01


@pytest.mark.parametrize("pairs", TREES.values(), ids=TREES)
def test_hard_negatives_need_another_image(pairs):
    with pytest.raises(ValueError, match="2 or more"):
        pairs(embeddings(2, 1, 4), 0.5, 0.1, 1.0)
