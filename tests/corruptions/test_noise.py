"""Noise against SciPy's distributions."""

import numpy as np
import pytest
import torch
from scenes import scenes
from scipy import stats

from unshaken.base.rng import Key
from unshaken.base.sample_rng import SampleRandom
from unshaken.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise


def draws(count: int) -> SampleRandom:
    return SampleRandom(Key(1), torch.arange(count))


@pytest.mark.parametrize("photons", [3, 50, 500])
def test_shot_noise_inverts_poissons_distribution(photons):
    x = scenes(3).double()
    x[0, 0, 0, :2] = torch.tensor([0, 1])
    u = draws(3).uniform(*x.shape[1:])
    expected = stats.poisson.ppf(u.numpy(), photons * x.numpy()) / photons
    expected[x.numpy() == 0] = 0  # SciPy's ppf at rate 0 has no value for u = 0
    assert np.abs(shot_noise(x, draws(3), photons).numpy() - expected).max() < 1e-12


def test_gaussian_and_speckle_noise():
    x = scenes(40).double()
    noise = (gaussian_noise(x, draws(40), 0.1) - x) / 0.1
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.001
    assert torch.allclose(speckle_noise(x, draws(40), 0.1) - x, 0.1 * x * noise, atol=1e-12)


def test_impulse_noise_is_salt_and_pepper_in_each_channel():
    x = scenes(100).double().clamp(0.1, 0.9)
    noisy = impulse_noise(x, draws(100), 0.1)
    hit = noisy != x
    assert set(noisy[hit].tolist()) == {0.0, 1.0}
    n = hit.numel()
    for found, expected in ((hit, 0.1), (noisy == 0, 0.05), (noisy == 1, 0.05), (hit[:, 0] & hit[:, 1], 0.01)):
        share = found.double().mean()
        assert abs(share - expected) < 5 * (expected / n * 3) ** 0.5
