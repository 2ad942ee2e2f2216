"""The literal forms compute NT-Xent, and the comparison measures time and memory."""

from functools import partial

import pytest
import torch
from bench.literal.contrast import nt_xent, nt_xent_as_classification
from bench.memory import peak
from compared import compared

from unshaken.base.rng import Key
from unshaken.losses.contrastive import nt_xent as ours


@pytest.mark.parametrize("literal", [nt_xent, nt_xent_as_classification])
def test_the_literal_forms_are_the_library_s(literal):
    z = torch.randn(2, 7, 5, generator=Key("z").on("cpu")).requires_grad_()
    assert torch.allclose(literal(z, 0.3), ours(z, 0.3))
    (a,), (b,) = torch.autograd.grad(literal(z, 0.3), z), torch.autograd.grad(ours(z, 0.3), z)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def filling(megabytes: int) -> partial:
    return partial(torch.ones, megabytes * 250_000)


@pytest.mark.extra
def test_memory_is_what_work_takes_at_its_largest():
    grown, made = peak(filling, 40)
    assert grown == pytest.approx(40, abs=10)
    assert len(made) == 10_000_000


@pytest.mark.extra
def test_the_comparison_runs():
    result = compared("loss", "--quick", "--rounds", "1")
    assert (result["name"], result["n"], result["rows"]) == ("loss", 1, 512)
    assert result["ratio"] > 0.2  # of one round, on a machine that may be busy
    assert result["memory_ratio"] > 0.2
