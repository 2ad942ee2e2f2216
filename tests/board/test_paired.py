"""The two tests against their definitions, and the ranks that follow from them."""

from math import comb

import numpy
import pytest
from scipy import stats

from unshaken.board.paired import Verdicts, counts, pair, ranks, sign_test, welch
from unshaken.report.compare import sign_test as exact


def row(stream: numpy.random.Generator, p: numpy.ndarray, seeds: int = 3, shift: float = 0.0) -> Verdicts:
    """Seeds of one recipe: the images are as hard for all, and a seed is a little better or worse than another."""
    own = shift + 0.01 * stream.standard_normal((seeds, 1))
    return Verdicts(stream.random((seeds, len(p))) < p + own, numpy.ones(len(p), bool))


@pytest.mark.parametrize(("more", "less"), [(0, 0), (5, 0), (12, 30), (300, 260)])
def test_the_sign_test_is_the_binomial(more, less):
    m, k = more + less, min(more, less)
    direct = min(1.0, 2 * sum(comb(m, i) for i in range(k + 1)) / 2**m)
    assert sign_test(more, less) == pytest.approx(direct, rel=1e-8)
    assert sign_test(more, less) == pytest.approx(exact(more, less), rel=1e-8)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 3), (3, 5)])
def test_welch_is_scipy_s(sizes):
    stream = numpy.random.default_rng(1)
    for _ in range(20):
        a, b = (list(stream.normal(80, 2, size)) for size in sizes)
        assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-9)
    assert welch([1.0], [2.0, 3.0]) is None
    assert welch([2.0, 2.0], [2.0, 2.0]) == 1.0


def test_matrix_counts_equal_counts_by_loops():
    stream = numpy.random.default_rng(2)
    rows = [row(stream, stream.random(60), seeds) for seeds in (1, 2, 3, 3)]
    rows[1].judged[:20] = False
    more, less = counts(rows, rows)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (more[i, j], less[i, j]) == (pair(a, b).a_better, pair(a, b).b_better)


def test_equal_methods_share_a_rank_and_better_ones_rank_higher():
    stream = numpy.random.default_rng(3)
    p = numpy.random.default_rng(4).random(400) * 0.3 + 0.5
    strong = [row(stream, p, shift=0.2) for _ in range(3)]
    weak = [row(stream, p) for _ in range(2)]
    found = ranks([*strong, *weak])
    assert found[:3] == [1, 1, 1]
    assert found[3:] == [4, 4]


def test_equal_methods_differ_no_more_often_than_the_level():
    stream, p = numpy.random.default_rng(5), numpy.random.default_rng(6).random(300)
    told = sum(pair(row(stream, p), row(stream, p)).told_apart for _ in range(400))
    assert told / 400 < 0.05
    alone = sum(pair(row(stream, p, 1), row(stream, p, 1)).told_apart for _ in range(400))
    assert alone / 400 < 0.08  # one seed each: the images alone decide, and a seed's luck is not seen


def test_differences_within_the_spread_of_seeds_are_insignificant():
    """Images alone would tell these two apart; their seeds differ as much among themselves."""
    bits = numpy.zeros((2, 400), bool)
    bits[0, :300], bits[1, :240] = True, True
    a = Verdicts(bits, numpy.ones(400, bool))
    b = Verdicts(bits[:, :] & (numpy.arange(400) < 270), numpy.ones(400, bool))
    found = pair(a, b)
    assert found.images < 0.001
    assert found.seeds > 0.05
    assert not found.told_apart
