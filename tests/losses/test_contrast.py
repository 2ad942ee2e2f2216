"""NT-Xent against its definition in loops, and against the released form."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from unshaken.base.keys import Key
from unshaken.losses.contrast import nt_xent


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


def test_all_alike_is_the_logarithm_of_the_rest():
    z = torch.ones(2, 7, 5)
    assert float(nt_xent(z, 0.5)) == pytest.approx(log(13))


def test_orthogonal_images_in_closed_form():
    z = torch.eye(6).expand(2, 6, 6)
    assert float(nt_xent(z, 0.5)) == pytest.approx(log(1 + 10 * exp(-2)))


def test_only_directions_count():
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


def test_low_precision_is_raised_first():
    z = embeddings(2, 8, 4).bfloat16()
    assert nt_xent(z, 0.1).dtype == torch.float32
    assert torch.equal(nt_xent(z, 0.1), nt_xent(z.float(), 0.1))


@pytest.mark.parametrize("shape", [(8, 4), (3, 8, 4), (1, 8, 4), (2, 8, 4, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"two views, shape \(2, N, D\), not"):
        nt_xent(torch.ones(shape), 0.5)
