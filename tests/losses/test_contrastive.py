"""NT-Xent and its kin against their definitions in loops, and against the released forms."""

from collections.abc import Callable
from math import exp, log

import pytest
import torch
from bench.memory import peak
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from unshaken.base.rng import Key
from unshaken.losses import contrastive as contrast
from unshaken.losses.contrastive import (
    check_temperature,
    info_nce,
    mean_over_pairs,
    multi_view,
    nt_xent,
    pairwise_hard_negative,
    pairwise_info_nce,
)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Key(seed).on("cpu"))


def defined(z: Tensor, tau: float) -> float:
    """Chen et al., eq. 1, over both anchors of each image: one term at a time, in float64."""
    z = z.double()
    names = [(u, k) for u in range(2) for k in range(z.shape[1])]
    similar = {(a, b): float(cosine_similarity(z[a], z[b], dim=0)) for a in names for b in names}
    total = 0.0
    for u, k in names:
        others = sum(exp(similar[(u, k), other] / tau) for other in names if other != (u, k))
        total -= log(exp(similar[(u, k), (1 - u, k)] / tau) / others)
    return total / len(names)


def released(z: Tensor, tau: float) -> Tensor:
    """ACL's utils.py and AIR's pretraining.py: rows 2k and 2k+1 are a pair; the self-similarity is subtracted."""
    x = z.transpose(0, 1).flatten(0, 1).double()
    norm = x.norm(dim=1, keepdim=True)
    similarity = torch.exp(x @ x.T / (norm @ norm.T).clamp(min=1e-8) / tau)
    rows = torch.arange(len(x))
    return -torch.log(similarity[rows, rows ^ 1] / (similarity.sum(1) - exp(1 / tau))).mean()


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(2, 2, 3), (2, 5, 4), (2, 8, 2)])
def test_the_definition(shape, tau):
    z = embeddings(*shape)
    assert float(nt_xent(z, tau)) == pytest.approx(defined(z, tau), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_released_form_and_its_gradient(tau):
    z = embeddings(2, 32, 16).requires_grad_()
    ours, theirs = nt_xent(z, tau), released(z, tau)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("tau", [0.02, 0.5, 3.0])
@pytest.mark.parametrize("images", [1, 3, 4, 5, 8, 9, 10])
def test_nt_xent_does_not_depend_on_the_block_size(monkeypatch, images, tau):
    """Ragged ones and a last one of one image too; the gradient that arrives is passed on."""
    z = embeddings(2, images, 6, seed=images).requires_grad_()
    monkeypatch.setattr(contrast, "CPU_BLOCK", 4)
    ours = nt_xent(z, tau)
    assert ours.item() == pytest.approx(defined(z.detach(), tau), rel=1e-5, abs=1e-5)
    (a,) = torch.autograd.grad(-3 * ours, z)
    x = z.detach().double().requires_grad_()  # the definition by autograd, on float64
    (b,) = torch.autograd.grad(-3 * cross_entropy(*_rows(x, tau)), x)
    assert torch.allclose(a, b.float(), rtol=1e-4, atol=1e-5 * float(1e-6 + b.abs().max()))


def _rows(z: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Logits of each anchor over all embeddings, and its partner's number."""
    x = z.flatten(0, 1)
    similar = cosine_similarity(x[:, None], x[None], dim=-1) / tau
    return similar.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf), torch.arange(len(x)).roll(z.shape[1])


def gradient(images: int) -> Callable[[], tuple[Tensor, ...]]:
    z = embeddings(2, images, 8).requires_grad_()
    return lambda: torch.autograd.grad(nt_xent(z, 0.5), z)


@pytest.mark.slow
@pytest.mark.extra
def test_memory_does_not_grow_with_the_number_of_pairs():
    """8,000 x 8,000 numbers would be 256 MB, those on and above the diagonal half of it."""
    assert peak(gradient, 4000)[0] < 64


def test_nan_and_inf_give_nan():
    for lost in (torch.nan, torch.inf):
        z = embeddings(2, 6, 4)
        z[1, 5, 2] = lost
        assert nt_xent(z, 0.5).isnan()


def test_a_second_derivative_is_refused():
    z = embeddings(2, 4, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(nt_xent(z, 0.5), z, create_graph=True)
    with torch.no_grad():
        assert not nt_xent(z, 0.5).requires_grad


def test_nt_xent_of_equal_embeddings_is_the_log_of_the_number_of_others():
    z = torch.ones(2, 7, 5)
    assert float(nt_xent(z, 0.5)) == pytest.approx(log(13))


def test_orthogonal_images_in_closed_form():
    z = torch.eye(6).expand(2, 6, 6)
    assert float(nt_xent(z, 0.5)) == pytest.approx(log(1 + 10 * exp(-2)))


def test_nt_xent_ignores_the_length_of_embeddings():
    z = embeddings(2, 6, 4)
    scale = 10.0 ** embeddings(2, 6, 1, seed=1)
    assert float(nt_xent(scale * z, 0.5)) == pytest.approx(float(nt_xent(z, 0.5)), rel=1e-5)


def test_views_and_images_may_change_places():
    z = embeddings(2, 6, 4)
    assert float(nt_xent(z.flip(0), 0.5)) == pytest.approx(float(nt_xent(z, 0.5)), rel=1e-6)
    assert float(nt_xent(z.flip(1), 0.5)) == pytest.approx(float(nt_xent(z, 0.5)), rel=1e-6)
    assert float(nt_xent(torch.stack([z[0], z[1].flip(0)]), 0.5)) != pytest.approx(float(nt_xent(z, 0.5)), rel=1e-3)


def test_one_image_has_nothing_to_be_contrasted_with():
    assert float(nt_xent(embeddings(2, 1, 4), 0.5)) == 0


def test_a_low_temperature_stays_finite():
    z = torch.eye(3).expand(2, 3, 3) * torch.tensor([1.0, -1.0]).view(2, 1, 1)  # partners as far apart as can be
    z = z.clone().requires_grad_()
    loss = nt_xent(z, 0.01)
    assert loss.item() == pytest.approx(100 + log(4), rel=1e-5)
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


def test_zero_embeddings_stay_finite():
    z = torch.zeros(2, 3, 4, requires_grad=True)
    loss = nt_xent(z, 0.5)
    assert loss.item() == pytest.approx(log(5))
    assert torch.autograd.grad(loss, z)[0].isfinite().all()


def test_nt_xent_computes_bf16_in_float32():
    z = embeddings(2, 8, 4).bfloat16()
    assert nt_xent(z, 0.1).dtype == torch.float32
    assert torch.equal(nt_xent(z, 0.1), nt_xent(z.float(), 0.1))


def test_autocast_does_not_change_nt_xent():
    z = embeddings(2, 8, 4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        within = nt_xent(z, 0.1)
    assert torch.equal(within, nt_xent(z, 0.1))
    (a,), (b,) = torch.autograd.grad(within, z), torch.autograd.grad(nt_xent(z, 0.1), z)
    assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(8, 4), (3, 8, 4), (1, 8, 4), (2, 8, 4, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"two views, shape \(2, N, D\), not"):
        nt_xent(torch.ones(shape), 0.5)


def names(z: Tensor) -> list[tuple[int, int]]:
    """(view, image) of every embedding."""
    return [(u, k) for u in range(z.shape[0]) for k in range(z.shape[1])]


def exponentials(anchors: Tensor, others: Tensor, tau: float) -> dict:
    """e(a, b) = exp(sim(a, b)/τ) of every two embeddings, one at a time, in float64."""
    a, b = anchors.double(), others.double()
    return {(x, y): (cosine_similarity(a[x], b[y], dim=0) / tau).exp() for x in names(a) for y in names(b)}


def pair_by_loop(z: Tensor, others: Tensor, tau: float) -> dict:
    """−log e(z_kᵘ, z_kᵛ) / Σ e(z_kᵘ, z') over all z' but the anchor, by (u, v, k)."""
    e, found = exponentials(z, others, tau), {}
    for u, k in names(z):
        total = sum(e[(u, k), other] for other in names(z) if other != (u, k))
        found |= {(u, v, k): -(e[(u, k), (v, k)] / total).log() for v in range(len(z)) if v != u}
    return found


def same(ours: Tensor, theirs: dict, z: Tensor) -> None:
    """Equal entries, 0 where a view would be its own partner; and equal gradients of a weighted sum of them."""
    weight = embeddings(*ours.shape, seed=5)
    assert ours.shape == (len(z), len(z), z.shape[1])
    for u, v, k in torch.cartesian_prod(*(torch.arange(n) for n in ours.shape)).tolist():
        expected = 0 if u == v else theirs[u, v, k].item()
        assert ours[u, v, k].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    (a,) = torch.autograd.grad((weight * ours).sum(), z)
    (b,) = torch.autograd.grad(sum(weight[at].double() * value for at, value in theirs.items()), z)
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("tau", [0.2, 0.5])
@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 3, 4), (4, 2, 3), (3, 1, 4)])
def test_pairs_are_their_definition(shape, tau):
    z = embeddings(*shape).requires_grad_()
    same(pairwise_info_nce(z, tau), pair_by_loop(z, z, tau), z)


def test_a_stopped_pair_pulls_its_anchor_alone():
    z = embeddings(3, 4, 3).requires_grad_()
    same(pairwise_info_nce(z, 0.5, z.detach()), pair_by_loop(z, z.detach(), 0.5), z)
    assert torch.equal(pairwise_info_nce(z, 0.5, z.detach()), pairwise_info_nce(z, 0.5))
    (grad,) = torch.autograd.grad(pairwise_info_nce(z, 0.5, z.detach())[1, 2, 3], z)
    assert [at for at in names(z) if grad[at].any()] == [(1, 3)]


def test_the_others_may_differ_from_the_anchors():
    z, others = embeddings(2, 3, 4).requires_grad_(), embeddings(2, 3, 4, seed=1)
    same(pairwise_info_nce(z, 0.5, others), pair_by_loop(z, others, 0.5), z)


@pytest.mark.parametrize("shape", [(2, 6, 4), (3, 4, 4), (4, 3, 5)])
def test_multi_view_is_the_mean_over_positives_then_over_anchors(shape):
    """SupCon, L_out, with each image a class of its own."""
    z = embeddings(*shape)
    by_loop, views = pair_by_loop(z, z, 0.3), shape[0]
    anchors = [sum(by_loop[u, v, k] for v in range(views) if v != u) / (views - 1) for u, k in names(z)]
    assert float(multi_view(z, 0.3)) == pytest.approx(float(sum(anchors)) / len(anchors), rel=1e-5)


def test_multi_view_of_two_is_nt_xent():
    z = embeddings(2, 8, 4)
    assert float(multi_view(z, 0.2)) == pytest.approx(float(nt_xent(z, 0.2)), rel=1e-6)


def test_mean_over_pairs_excludes_the_diagonal():
    values = torch.arange(18.0).view(3, 3, 2) * (1 - torch.eye(3))[..., None]
    assert float(mean_over_pairs(values)) == pytest.approx(sum(range(18)) / 12 - (0 + 1 + 8 + 9 + 16 + 17) / 12)


@pytest.mark.parametrize("tau", [0.2, 0.5])
@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 4, 4), (4, 2, 3)])
def test_info_nce_is_kim_s_equation(shape, tau):
    """Anchor view 0, its positives within one logarithm, the views of other images negatives; in float64."""
    z = embeddings(*shape).requires_grad_()
    e, total = exponentials(z, z, tau), 0.0
    for k in range(shape[1]):
        positive = sum(e[(0, k), (v, k)] for v in range(1, shape[0]))
        negative = sum(e[(0, k), (v, m)] for v, m in names(z) if m != k)
        total = total - (positive / (positive + negative)).log() / shape[1]
    ours = info_nce(z, tau)
    assert ours.item() == pytest.approx(total.item(), rel=1e-5)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(total, z)
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def test_info_nce_averaged_over_both_anchors_is_nt_xent():
    z = embeddings(2, 8, 4)
    assert float(info_nce(z, 0.5) + info_nce(z.flip(0), 0.5)) / 2 == pytest.approx(float(nt_xent(z, 0.5)), rel=1e-6)


def hard_by_loop(z: Tensor, tau: float, tau_plus: float, beta: float) -> dict:
    """Robinson et al., eq. 4 and their code: N_g from importance weights of mean 1, each anchor on its own."""
    e, found = exponentials(z, z, tau), {}
    for u, k in names(z):
        positive = [e[(u, k), (v, k)] for v in range(len(z)) if v != u]
        negative = [e[(u, k), (v, m)] for v, m in names(z) if m != k]
        P, M = sum(positive) / len(positive), len(negative)
        importance = [n**beta for n in negative]
        mean = sum(importance) / M
        reweighted = sum(i / mean * n for i, n in zip(importance, negative, strict=True))
        N_g = ((reweighted - tau_plus * M * P) / (1 - tau_plus)).clamp(min=M * exp(-1 / tau))
        found |= {(u, v, k): -(e[(u, k), (v, k)] / (P + N_g)).log() for v in range(len(z)) if v != u}
    return found


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_hard_pairs_are_their_definition(tau, tau_plus, beta):
    z = embeddings(3, 4, 3).requires_grad_()
    same(pairwise_hard_negative(z, tau, tau_plus, beta), hard_by_loop(z, tau, tau_plus, beta), z)


def test_the_floor_of_hard_pairs_is_reached_and_stops_the_negatives():
    """Positives so near that the debiased negatives would be negative: M exp(−1/τ) instead."""
    z = torch.stack([torch.eye(3), torch.eye(3) + 0.01 * embeddings(3, 3)]).requires_grad_()
    ours = pairwise_hard_negative(z, 0.5, 0.9, 1.0)
    same(ours, hard_by_loop(z, 0.5, 0.9, 1.0), z)
    e = (cosine_similarity(z[0, 0], z[1, 0], dim=0) / 0.5).exp().item()
    assert ours[0, 1, 0].item() == pytest.approx(-log(e / (e + 4 * exp(-2))), rel=1e-4)


def test_hard_pairs_without_reweighting_and_debiasing_are_pairs_with_the_positives_averaged():
    z = embeddings(2, 5, 4)
    assert torch.allclose(pairwise_hard_negative(z, 0.5, 0.0, 0.0), pairwise_info_nce(z, 0.5), atol=1e-5)


def test_hard_pairs_at_a_low_temperature_stay_finite():
    z = (torch.eye(3).expand(2, 3, 3) * torch.tensor([1.0, -1.0]).view(2, 1, 1)).clone().requires_grad_()
    loss = pairwise_hard_negative(z, 0.01, 0.1, 1.0)
    assert loss.isfinite().all()
    assert loss[0, 1, 0].item() == pytest.approx(100 + log(4 / 0.9), rel=1e-5)
    assert torch.autograd.grad(loss.sum(), z)[0].isfinite().all()


def test_a_stopped_hard_pair_pulls_its_anchor_alone():
    z = embeddings(3, 4, 3).requires_grad_()
    stopped = pairwise_hard_negative(z, 0.5, 0.1, 1.0, z.detach())
    assert torch.equal(stopped, pairwise_hard_negative(z, 0.5, 0.1, 1.0))
    (grad,) = torch.autograd.grad(stopped[1, 2, 3], z)
    assert [at for at in names(z) if grad[at].any()] == [(1, 3)]


def test_hard_negatives_need_another_image():
    with pytest.raises(ValueError, match="2 or more"):
        pairwise_hard_negative(embeddings(2, 1, 4), 0.5, 0.1, 1.0)


@pytest.mark.parametrize("shape", [(1, 8, 4), (8, 4), (2, 8, 4, 1)])
def test_fewer_than_two_views_are_refused(shape):
    z = torch.ones(shape)
    for loss in (pairwise_info_nce, info_nce, multi_view, lambda z, tau: pairwise_hard_negative(z, tau, 0.1, 1.0)):
        with pytest.raises(ValueError, match=r"two views or more, shape \(V, N, D\), not"):
            loss(z, 0.5)


def test_the_other_losses_compute_bf16_in_float32():
    z = embeddings(3, 8, 4).bfloat16()
    for loss in (pairwise_info_nce, info_nce, multi_view, lambda z, tau: pairwise_hard_negative(z, tau, 0.1, 1.0)):
        assert loss(z, 0.1).dtype == torch.float32
        assert torch.equal(loss(z, 0.1), loss(z.float(), 0.1))


@pytest.mark.parametrize("tau", [0, -0.5, float("nan"), float("inf")])
def test_a_temperature_is_positive(tau):
    check_temperature(0.5)
    with pytest.raises(ValueError, match="positive number"):
        check_temperature(tau)
