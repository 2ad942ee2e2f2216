"""TRADES against its definition in loops, and against torch's losses."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from unshaken.base.rng import Key
from unshaken.losses.trades import trades

LABEL = torch.tensor([0, 3, 1, 1, 2, 0])


def logits(seed: int) -> Tensor:
    return torch.randn(6, 4, generator=Key(seed).on("cpu"))


def softmax(row: list[float]) -> list[float]:
    return [exp(a) / sum(exp(b) for b in row) for a in row]


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_the_definition(beta):
    clean, adv = logits(0), logits(1)
    p, q = ([softmax(row) for row in z.tolist()] for z in (clean, adv))
    natural = -sum(log(p[k][y]) for k, y in enumerate(LABEL.tolist())) / 6
    robust = sum(a * log(a / b) for p_k, q_k in zip(p, q, strict=True) for a, b in zip(p_k, q_k, strict=True)) / 6
    terms = trades(clean, adv, LABEL, beta)
    assert [float(term) for term in terms] == pytest.approx([natural + beta * robust, natural, robust], rel=1e-5)


def test_the_published_code_s_form_and_its_gradients():
    """Zhang's trades.py: KLDivLoss of log_softmax(adv) and softmax(clean), summed and divided by the batch size."""
    clean, adv = logits(0).requires_grad_(), logits(1).requires_grad_()
    theirs = cross_entropy(clean, LABEL) + 6.0 / 6 * kl_div(adv.log_softmax(1), clean.softmax(1), reduction="sum")
    ours = trades(clean, adv, LABEL, 6.0)[0]
    assert torch.allclose(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(loss, (clean, adv)) for loss in (ours, theirs)), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_trades_computes_bf16_in_float32():
    clean, adv = logits(0).bfloat16(), logits(1).bfloat16()
    for a, b in zip(trades(clean, adv, LABEL, 6.0), trades(clean.float(), adv.float(), LABEL, 6.0), strict=True):
        assert torch.equal(a, b)
