"""A batch, and annotations that are a shape: the tests check them."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from unshaken.base.types import Batch, Bool, Float, Int, UInt8
from unshaken.losses.contrastive import mean_over_pairs, nt_xent
from unshaken.losses.trades import trades


def test_shapes_are_checked_as_types():
    assert isinstance(torch.zeros(2, 3, 4), Float[Tensor, "2 N D"])
    assert not isinstance(torch.zeros(3, 3, 4), Float[Tensor, "2 N D"])
    assert not isinstance(torch.zeros(3), Int[Tensor, "N"])
    assert isinstance(torch.zeros(3, dtype=torch.uint8), UInt8[Tensor, "N"])
    assert isinstance(torch.zeros(3, dtype=torch.bool), Bool[Tensor, "N"])


def test_calls_are_checked_in_the_tests():
    z = torch.zeros(2, 3, 4)
    assert mean_over_pairs(torch.zeros(2, 2, 3)) == 0
    with pytest.raises(TypeCheckError, match="mean_over_pairs"):
        mean_over_pairs(z)  # a sum over it would be as good a number as any
    with pytest.raises(TypeCheckError, match="trades"):
        trades(torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, 4), 1.0)  # not classes


def test_fields_of_a_batch_are_checked():
    images = torch.zeros(3, 1, 4, 4)
    with pytest.raises(TypeCheckError, match="Batch"):
        Batch(torch.zeros(2, 5, 1, 4, 4), images, None, torch.arange(3))  # views of other images


def test_functions_report_wrong_shapes_themselves():
    with pytest.raises(ValueError, match="two views"):
        nt_xent(torch.zeros(3, 4), 0.5)


def test_a_batch_moves_all_its_tensors():
    batch = Batch(torch.zeros(2, 3, 1, 4, 4), torch.zeros(3, 1, 4, 4), None, torch.arange(3))
    moved = batch.to(torch.device("meta"))
    assert moved.views.is_meta
    assert moved.image.is_meta
    assert moved.index.is_meta
    assert moved.label is None
