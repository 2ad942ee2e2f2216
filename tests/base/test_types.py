"""A batch, and annotations that show a shape."""

import torch
from torch import Tensor

from unshaken.base.types import Batch, Float, Int


def test_a_shape_is_for_the_reader():
    assert Float[Tensor, "2 N D"] is Tensor
    assert Int[Tensor, "N"] is Tensor


def test_a_batch_moves_as_a_whole():
    batch = Batch(torch.zeros(2, 3, 1, 4, 4), torch.zeros(3, 1, 4, 4), None, torch.arange(3))
    moved = batch.to(torch.device("meta"))
    assert moved.views.is_meta
    assert moved.image.is_meta
    assert moved.index.is_meta
    assert moved.label is None
