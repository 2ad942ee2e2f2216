"""Draws by sample: the published generator's values, independence of the batch, and distributions."""

import pytest
import torch
from scipy import stats

from unshaken.base import sample_rng as module
from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom


def splitmix(z: int) -> int:
    """Steele, Lea and Flood's finaliser in Python's own integers."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_the_generator_is_splitmix64():
    # the first outputs for seed 1234567, as published with the generator's reference code
    assert splitmix((1234567 + 0x9E3779B97F4A7C15) % 2**64) == 6457827717110365317
    key, index = Key(3) / "x", 41
    start = splitmix(splitmix(index) ^ key.number)
    expected = [(splitmix((start + k * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53 for k in range(1, 9)]
    assert SampleRandom(key, torch.tensor([index])).uniform(2, 4).flatten().tolist() == expected


def test_a_sample_does_not_see_its_batch():
    together = SampleRandom(Key(1), torch.arange(5))
    apart = SampleRandom(Key(1), torch.tensor([3]))
    for draw in (lambda d: d.uniform(7), lambda d: d.normal(7), lambda d: d.integers(-3, 9, 2, 2)):
        assert torch.equal(draw(together)[3:4], draw(apart))
    assert torch.equal((together / "a").uniform(4), SampleRandom(Key(1) / "a", torch.arange(5)).uniform(4))
    assert len({float(v) for v in (together / "a").uniform(1)} | {float(v) for v in (together / "b").uniform(1)}) == 10


def test_an_empty_batch_is_empty():
    assert SampleRandom(Key(1), torch.arange(0)).normal(2, 3).shape == (0, 2, 3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_normal_returns_the_requested_number_of_draws(count):
    assert SampleRandom(Key(1), torch.arange(3)).normal(count).shape == (3, count)


def test_draws_have_the_requested_distributions():
    draws = SampleRandom(Key(5), torch.arange(100))
    uniform, normal = draws.uniform(500, low=-2, high=3).flatten(), draws.normal(500).flatten()
    assert stats.kstest((uniform + 2) / 5, "uniform").pvalue > 0.001
    assert stats.kstest(normal, "norm").pvalue > 0.001
    half = draws.normal(500)[:, :250].flatten(), draws.normal(500)[:, 250:].flatten()
    assert abs(torch.corrcoef(torch.stack(half))[0, 1]) < 0.02
    integers = draws.integers(-1, 2, 500).flatten()
    assert stats.chisquare([int((integers == k).sum()) for k in (-1, 0, 1)]).pvalue > 0.001


def test_draws_of_neighbouring_samples_are_uncorrelated():
    u = SampleRandom(Key(5), torch.arange(2000)).uniform(20)
    assert torch.corrcoef(torch.stack([u[1:].flatten(), u[:-1].flatten()]))[0, 1].abs() < 0.02
    assert torch.corrcoef(torch.stack([u[:, 1:].flatten(), u[:, :-1].flatten()]))[0, 1].abs() < 0.02


def test_the_right_shift_fills_with_zeros():
    assert module._shift_right(torch.tensor([-1]), 60).item() == 15
