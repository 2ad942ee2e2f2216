"""Counts and their chances, against SciPy; what a model is asked."""

import pytest
import torch
from scipy.stats import binom, binomtest

from unshaken.attacks.ball import Linf
from unshaken.base.rng import Key
from unshaken.diagnostics.subject import (
    SURPRISING,
    ModelUnderTest,
    binomial_tail,
    exceeds_share,
    is_better,
)


@pytest.mark.parametrize("n", [1, 7, 48, 192])
@pytest.mark.parametrize("p", [0.0, 0.02, 0.5, 1.0])
def test_the_chance_of_a_count(n, p):
    for k in (0, 1, n // 2, n):
        assert binomial_tail(k, n, p) == pytest.approx(binom.sf(k - 1, n, p), rel=1e-9, abs=1e-15)


def test_many_is_surprising_to_harmless_shares():
    """The fewest images of so many that are a finding: what the documentation of a check may count on."""
    fewest = {n: next(k for k in range(n + 1) if exceeds_share(k, n)) for n in (16, 48, 192)}
    assert fewest == {16: 5, 48: 7, 192: 14}
    assert not exceeds_share(0, 0)


def test_more_is_a_sign_test():
    for gained, lost in [(3, 0), (14, 0), (13, 0), (20, 4), (20, 1), (1, 20)]:
        surprising = binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue < SURPRISING
        assert is_better(gained, lost) == surprising
    assert not is_better(0, 0)
    assert is_better(14, 0, tried=1)
    assert not is_better(14, 0, tried=2)


def test_a_patient_is_asked_in_parts_and_answers_for_all():
    asked = []

    def logits(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return x.flatten(1)[:, :2]

    x = torch.rand(100, 1, 2, 2)
    model = ModelUnderTest(logits, x, x.flatten(1)[:, :2].argmax(1), Linf(0.1), Key(0))
    assert model.is_correct.all()
    assert model.is_correct is model.is_correct
    assert asked == [64, 36]
    assert not model.correct_on(x.flip(3)).any()
    few = model.subset(torch.arange(100) < 3)
    assert few.is_correct.shape == model.first(3).is_correct.shape == (3,)
    with pytest.raises(ValueError, match="a label each"):
        ModelUnderTest(logits, x, torch.zeros(3), Linf(0.1), Key(0))
