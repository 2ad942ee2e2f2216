"""Counting, packing, intervals."""

import pytest
import torch

from unshaken.evaluate.verdicts import Verdicts, wilson


def test_counts_and_bits():
    verdicts = Verdicts.none().followed_by(torch.tensor([True, False, True])).followed_by(torch.tensor([True]))
    summary = verdicts.summary()
    assert (summary["correct"], summary["n"], summary["percent"]) == (3, 4, 75.0)
    assert torch.equal(Verdicts.unpacked(summary["bits"], 4).bits, verdicts.bits)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 445])
def test_packing_keeps_every_bit(n):
    bits = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    assert torch.equal(Verdicts.unpacked(Verdicts(bits).packed(), n).bits, bits)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Brown, Cai and DasGupta's formula by hand; statsmodels' proportion_confint(method="wilson") agrees
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (81, 263, 0.25529, 0.36620), (50, 100, 0.40383, 0.59617)],
)
def test_wilson(correct, n, low, high):
    assert wilson(correct, n) == pytest.approx((low, high), abs=2e-5)


def test_nothing_judged_is_no_accuracy():
    with pytest.raises(ValueError, match="no image was judged"):
        wilson(0, 0)
