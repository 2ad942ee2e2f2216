"""The comparison runs, and its parts do what they are timed for."""

import pytest
import torch
from bench.scaling import BATCH, SAMPLE, Chance, once
from compared import compared

from unshaken.base.rng import Key
from unshaken.coreset.rcs import RCS
from unshaken.data.images import Images


@pytest.mark.parametrize("n", [100, 601, BATCH * SAMPLE, BATCH * SAMPLE + 513])
def test_a_sample_of_an_epoch_is_from_everywhere(monkeypatch, n):
    """And what is timed is of so many images: an order of all, views of the sample."""
    seen = []
    monkeypatch.setattr("bench.scaling.timed", lambda work: (1.0, work()))
    monkeypatch.setattr("bench.scaling.looked_at", lambda feed, batches: seen.append(torch.cat([*batches])))
    seconds = once(Images(torch.zeros(n, 1, 4, 4, dtype=torch.uint8)), epoch=0)
    assert n / 2 <= len(seen[0].unique()) == len(seen[0]) <= BATCH * SAMPLE
    assert seen[0].max() > 0.9 * n
    assert seen[0].min() < 0.1 * n
    assert (seconds["order"], seconds["digest"]) == (1 / n, 1 / n)
    assert (seconds["simclr"], seconds["cropflip"]) == (1 / len(seen[0]), 1 / len(seen[0]))


def test_the_synthetic_problem_can_be_selected_from():
    problem = Chance(tuple(torch.arange(40).split(8)), held=3)
    picked = RCS(0.2).select(problem, 16, Key(0))
    assert len(picked.unique()) == 16
    whole, one = problem.gradients(range(5), "batch"), problem.gradients([3], "batch")
    assert torch.equal(whole.of(3)["0.weight"], one.of(0)["0.weight"])
    assert problem.seconds > 0


@pytest.mark.extra
def test_the_comparison_runs():
    result = compared("scaling", "--quick", "--rounds", "1")
    assert (result["name"], result["n"], result["images"]) == ("scaling", 1, [500, 1000, 2000])
    assert 0.1 < result["ratio"] < 10  # on a machine that may be busy
    assert result["selection"]["2000"]["picked"] == 100
    assert result["selection"]["2000"]["mb"] < 600
