"""Margins and DLR against loops in float64, for any number of classes."""

from math import inf, nan

import pytest
import torch
from torch import Tensor

from unshaken.attacks.objective import dlr, likeliest, margin, targeted_dlr
from unshaken.base.rng import Key

each_count = pytest.mark.parametrize("classes", [2, 3, 4, 10])


def logits(classes: int) -> tuple[Tensor, Tensor]:
    rng = Key(classes).on("cpu")
    return torch.randn(20, classes, generator=rng), torch.randint(classes, (20,), generator=rng)


@each_count
def test_the_margin(classes):
    z, y = logits(classes)
    expected = [float(row[t]) - max(float(v) for i, v in enumerate(row) if i != t) for row, t in zip(z, y, strict=True)]
    assert margin(z, y).tolist() == pytest.approx(expected, abs=1e-6)
    assert ((margin(z, y) < 0) == (z.argmax(1) != y)).all()


def test_the_margin_of_nan_and_infinite_logits_is_minus_infinity():
    z = torch.tensor([[inf, 0.0], [0.0, nan], [nan, 0.0], [0.0, -inf]])
    assert margin(z, torch.zeros(4, dtype=torch.long)).tolist() == [-inf] * 4


@each_count
def test_the_difference_of_logits_ratio(classes):
    """Eq. 6 and 7 of arXiv:2003.01690; with fewer classes than they name, undivided."""
    z, y = logits(classes)
    target = (y + 1) % classes
    for row, t, u, plain, aimed in zip(z, y, target, dlr(z, y), targeted_dlr(z, y, target), strict=True):
        ranked = sorted((float(v) for v in row), reverse=True)
        spread = ranked[0] - ranked[2] if classes > 2 else 1
        wide = ranked[0] - (ranked[2] + ranked[3]) / 2 if classes > 3 else 1
        others = max(float(v) for i, v in enumerate(row) if i != t)
        assert float(plain) == pytest.approx(-(float(row[t]) - others) / spread, rel=1e-5)
        assert float(aimed) == pytest.approx(-(float(row[t]) - float(row[u])) / wide, rel=1e-5)


def test_equal_logits_have_a_loss_and_a_gradient():
    z, y = torch.zeros(1, 10, requires_grad=True), torch.zeros(1, dtype=torch.long)
    for value in (dlr(z, y), targeted_dlr(z, y, y + 1)):
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


@each_count
def test_the_likeliest_wrong_classes(classes):
    z, y = logits(classes)
    found = likeliest(z, y, 9)
    assert found.shape == (20, min(9, classes - 1))
    for row, t, targets in zip(z, y, found, strict=True):
        expected = sorted((i for i in range(classes) if i != t), key=lambda i: -float(row[i]))
        assert targets.tolist() == expected[:9]
    assert torch.equal(likeliest(z, y, 1), found[:, :1])
