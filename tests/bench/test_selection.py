"""The literal selection computes the same mathematics as the library's exact one, and the comparison says so."""

import pytest
import torch
from bench.clock import paired
from bench.literal.selection import divergence
from compared import compared, ended

from unshaken.base.rng import Key
from unshaken.losses.divergence import kl_rows


def test_the_literal_distance_is_the_library_s():
    z, other = torch.randn(2, 2, 7, 5, generator=Key("z").on("cpu"))
    assert torch.allclose(divergence(z[0], other[0]), kl_rows(z[0], other[0]).mean())


def test_ratios_are_of_medians_and_their_spread_of_pairs():
    result = paired({"fast": [1.0, 2.0, 4.0], "slow": [10.0, 10.0, 30.0]}, "fast", "slow")
    assert (result["ratio"], result["spread"], result["n"]) == (5.0, [5.0, 10.0], 3)
    assert (result["ours_s"], result["baseline_s"]) == (2.0, 10.0)


@pytest.mark.extra
def test_the_exact_settings_pick_as_the_literal_procedure_does():
    """On digits, with few images; a fast setting's picks mean nothing on a network that has hardly learned."""
    result = compared("selection", "--quick", "--rounds", "1")
    assert (result["name"], result["n"], result["picks"]) == ("selection", 1, 2)
    assert result["exact"]["same_picks"] == result["exact"]["advantage_kept"] == [1.0]
    assert result["exact"]["gains_correlate"][0] > 0.999
    assert result["ratio"] > 0  # with so few images it is no measurement
    code, _, said = ended("selection", "--rounds", "0")
    assert code
    assert "--rounds is 1 or more" in said
