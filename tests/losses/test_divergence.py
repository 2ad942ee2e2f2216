"""Divergences: definitions in loops and float64, and torch's kl_div."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from unshaken.base.rng import Key
from unshaken.losses.divergence import js_rows, kl, kl_rows, representational_divergence, sinkhorn


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Key(seed).on("cpu"))


def defined(log_p: list[float], log_q: list[float]) -> float:
    """Σ p log(p/q) in float64."""
    return sum(exp(a) * log(exp(a) / exp(b)) for a, b in zip(log_p, log_q, strict=True))


@pytest.mark.parametrize("normal", [True, False])
def test_kl_of_a_batch(normal):
    p, q = draw(9), draw(9, seed=1)
    if normal:
        p, q = p.log_softmax(0), q.log_softmax(0)
    assert float(kl(p, q)) == pytest.approx(defined(p.tolist(), q.tolist()), rel=1e-5, abs=1e-5)
    assert torch.allclose(kl(p, q), kl_div(q, p, log_target=True, reduction="sum"))


def test_kl_of_two_bernoulli_distributions():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert float(kl(p, q)) == pytest.approx(0.5 * log(4 / 3))
    assert float(kl(q, p)) == pytest.approx(0.25 * log(0.5) + 0.75 * log(1.5))


def test_kl_rows_are_the_definition_and_the_librarys():
    p, q = draw(6, 5), draw(6, 5, seed=1)
    rows = kl_rows(p, q)
    slow = [defined(*(z.double().softmax(0).log().tolist() for z in pair)) for pair in zip(p, q, strict=True)]
    assert rows.tolist() == pytest.approx(slow, rel=1e-4)
    library = kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)
    assert torch.allclose(rows, library)


def test_kl_rows_ignore_a_shift_of_the_logits():
    p, q = draw(6, 5), draw(6, 5, seed=1)
    assert torch.allclose(kl_rows(p + 100, q - 50), kl_rows(p, q), atol=1e-4)


def test_kl_rows_are_zero_for_equal_logits_and_positive_otherwise():
    p = draw(6, 5)
    assert kl_rows(p, p).abs().max() < 1e-6
    assert kl_rows(p, draw(6, 5, seed=1)).min() > 0


def test_kl_of_extreme_logits_is_finite():
    p, q = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]], requires_grad=True)
    loss = kl_rows(p, q).sum()
    assert loss.item() == pytest.approx(1e4)
    assert torch.autograd.grad(loss, q)[0].tolist() == [[-1.0, 1.0]]


def test_kl_computes_bf16_in_float32():
    p, q = draw(6, 5).bfloat16(), draw(6, 5, seed=1).bfloat16()
    assert torch.equal(kl_rows(p, q), kl_rows(p.float(), q.float()))


def test_js_is_its_definition():
    p, q = draw(6, 5), draw(6, 5, seed=1)
    slow = []
    for a, b in zip(p.double().softmax(1).tolist(), q.double().softmax(1).tolist(), strict=True):
        m = [(s + t) / 2 for s, t in zip(a, b, strict=True)]
        slow.append(sum(s * log(s / u) + t * log(t / u) for s, t, u in zip(a, b, m, strict=True)) / 2)
    assert js_rows(p, q).tolist() == pytest.approx(slow, rel=1e-4)
    assert torch.allclose(js_rows(p, q), js_rows(q, p))
    assert js_rows(p, p).abs().max() < 1e-6


def test_js_of_disjoint_distributions_is_log_2():
    p, q = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]], requires_grad=True)
    assert js_rows(p, q).item() == pytest.approx(log(2))
    assert torch.autograd.grad(js_rows(p, q).sum(), q)[0].isfinite().all()


def slow_sinkhorn(z_adv: Tensor, z: Tensor, blur: float, iterations: int) -> float:
    """The plan by scaling rows and columns in turn, in loops and float64; then its cost and its divergence."""
    p, q = z_adv.double().softmax(1).tolist(), z.double().softmax(1).tolist()

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(s * t for s, t in zip(a, b, strict=True))
        return dot / (sum(s * s for s in a) * sum(t * t for t in b)) ** 0.5

    C = [[1 - cosine(a, b) for b in q] for a in p]
    n, m = len(p), len(q)
    K = [[exp(-c / blur) for c in row] for row in C]
    u, v = [1.0] * n, [1.0] * m
    for _ in range(iterations):
        u = [1 / n / sum(K[i][j] * v[j] for j in range(m)) for i in range(n)]
        v = [1 / m / sum(K[i][j] * u[i] for i in range(n)) for j in range(m)]
    T = [[u[i] * K[i][j] * v[j] for j in range(m)] for i in range(n)]
    return sum(t * c + blur * t * log(t * n * m) for i in range(n) for t, c in zip(T[i], C[i], strict=True))


@pytest.mark.parametrize("blur", [0.05, 0.5])
def test_transport_is_the_entropic_minimum(blur):
    p, q = draw(4, 5), draw(6, 5, seed=1)
    assert float(sinkhorn(p, q, blur, 500)) == pytest.approx(slow_sinkhorn(p, q, blur, 500), rel=1e-4)


def test_transport_s_gradient_is_that_of_the_minimum():
    p, q = draw(3, 4), draw(3, 4, seed=1)
    (grad,) = torch.autograd.grad(sinkhorn(p.requires_grad_(), q, 0.1, 500), p)
    for i, k in ((0, 0), (1, 2), (2, 3)):
        to = [p.detach().double() for _ in range(2)]
        to[0][i, k] += 1e-4
        to[1][i, k] -= 1e-4
        slope = (slow_sinkhorn(to[0], q, 0.1, 500) - slow_sinkhorn(to[1], q, 0.1, 500)) / 2e-4
        assert float(grad[i, k]) == pytest.approx(slope, rel=1e-2, abs=1e-5)


def test_transport_can_match_different_rows():
    """It does not see the order of a batch, as distances of rows do; and far embeddings cost more."""
    p, far = 3 * draw(6, 5), 3 * draw(6, 5, seed=1)
    assert torch.allclose(sinkhorn(p, p.roll(1, 0)), sinkhorn(p, p), atol=1e-5)
    assert sinkhorn(p, p) < 0.02 < sinkhorn(p, far)
    assert kl_rows(p, p.roll(1, 0)).min() > 0.1


def test_representational_is_of_the_adversarial_from_the_clean():
    p, q = draw(6, 5), draw(6, 5, seed=1)
    assert torch.equal(representational_divergence(p, q), kl_rows(p, q).mean())
    assert torch.equal(representational_divergence(p, q, "js"), js_rows(p, q).mean())
    assert torch.equal(representational_divergence(p, q, "ot"), sinkhorn(p, q))
