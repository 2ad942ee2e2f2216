"""Counting, packing, intervals."""

import json

import pytest
import torch
from scipy.stats import hypergeom

from unshaken.evaluation.verdicts import Verdicts, forecast, wilson


def test_counts_and_bits():
    verdicts = Verdicts.of(torch.tensor([True, False, True, True]))
    summary = json.loads(json.dumps(verdicts.summary()))
    assert (summary["correct"], summary["n"], summary["percent"]) == (3, 4, 75.0)
    assert "of" not in summary
    assert torch.equal(Verdicts.read(summary).bits, verdicts.bits)
    assert Verdicts.read(summary).complete


def test_a_part_says_which_images_it_is_of():
    verdicts = Verdicts.none(9)
    verdicts.bits[[1, 5]], verdicts.judged[[1, 2, 5]] = True, True
    summary = json.loads(json.dumps(verdicts.summary()))
    assert (summary["correct"], summary["n"], summary["of"]) == (2, 3, 9)
    again = Verdicts.read(summary)
    assert torch.equal(again.bits, verdicts.bits)
    assert torch.equal(again.judged, verdicts.judged)
    low, high = summary["final95"]
    assert low >= 100 * 2 / 9 - 0.01
    assert high <= 100 * 8 / 9 + 0.01


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


def test_a_forecast_ends_at_what_is_known():
    assert forecast(30, 100, 100) == (0.3, 0.3)
    assert forecast(0, 0, 100) == (0.0, 1.0)
    widths = [high - low for low, high in (forecast(n // 2, n, 1000) for n in range(100, 1001, 100))]
    assert widths == sorted(widths, reverse=True)
    low, high = forecast(50, 100, 10**9)
    assert (low, high) == pytest.approx(wilson(50, 100), abs=1e-6)


@pytest.mark.parametrize(
    ("total", "right", "n"), [(445, 300, 128), (2000, 900, 256), (2000, 900, 1500), (500, 40, 200)]
)
def test_a_forecast_holds_in_19_of_20_draws(total, right, n):
    """Exactly, by the distribution of a draw without replacement; and it is not wider than it need be."""
    draws = hypergeom(total, right, n)
    held = 0.0
    for k in range(n + 1):
        low, high = forecast(k, n, total) if 0 <= right - k <= total - n else (1.0, 0.0)
        held += draws.pmf(k) * (low <= right / total <= high)
    assert 0.935 < held < 0.97
