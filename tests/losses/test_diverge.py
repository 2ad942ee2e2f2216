"""KL over a batch and over rows: its definition in loops, and torch's kl_div."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from unshaken.base.keys import Key
from unshaken.losses.diverge import kl, kl_rows


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


def test_kl_of_a_coin():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert float(kl(p, q)) == pytest.approx(0.5 * log(4 / 3))
    assert float(kl(q, p)) == pytest.approx(0.25 * log(0.5) + 0.75 * log(1.5))


def test_rows():
    p, q = draw(6, 5), draw(6, 5, seed=1)
    rows = kl_rows(p, q)
    slow = [defined(*(z.double().softmax(0).log().tolist() for z in pair)) for pair in zip(p, q, strict=True)]
    assert rows.tolist() == pytest.approx(slow, rel=1e-4)
    library = kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="none").sum(1)
    assert torch.allclose(rows, library)


def test_rows_do_not_see_a_shift_of_the_logits():
    p, q = draw(6, 5), draw(6, 5, seed=1)
    assert torch.allclose(kl_rows(p + 100, q - 50), kl_rows(p, q), atol=1e-4)


def test_rows_are_zero_where_equal_and_positive_elsewhere():
    p = draw(6, 5)
    assert kl_rows(p, p).abs().max() < 1e-6
    assert kl_rows(p, draw(6, 5, seed=1)).min() > 0


def test_far_logits_stay_finite():
    p, q = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]], requires_grad=True)
    loss = kl_rows(p, q).sum()
    assert loss.item() == pytest.approx(1e4)
    assert torch.autograd.grad(loss, q)[0].tolist() == [[-1.0, 1.0]]


def test_low_precision_is_raised_first():
    p, q = draw(6, 5).bfloat16(), draw(6, 5, seed=1).bfloat16()
    assert torch.equal(kl_rows(p, q), kl_rows(p.float(), q.float()))
