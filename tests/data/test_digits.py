"""scikit-learn's digits and the split that uses no random number."""

import numpy as np
import pytest
import torch

from unshaken.data.digits import digits
from unshaken.data.holdout import holdout_split, rank


def test_rank_counts_earlier_images_of_the_class() -> None:
    label = np.array([2, 0, 2, 2, 0, 1])
    assert rank(label).tolist() == [sum(label[:i] == label[i]) for i in range(6)] == [0, 0, 1, 2, 1, 0]
    assert holdout_split(label, 2).tolist() == [False, False, True, False, True, False]


def test_digits_are_scaled_and_split_by_class() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    train, test = digits("train"), digits("test")
    assert train.pixels.shape[1:] == (1, 8, 8)
    assert len(train) + len(test) == 1797
    assert train.names == tuple("0123456789")
    for k in range(10):
        rows = [i for i in range(1797) if bunch.target[i] == k]
        expected = [round(v * 255 / 16) for v in bunch.images[rows[3]].flatten()]
        assert test.pixels[test.label == k][0].flatten().tolist() == expected
        assert (test.label == k).sum() == len(rows) // 4
        assert (train.label == k).sum() == len(rows) - len(rows) // 4
    # the same pixels once in each part would be a leak: in the file every image is unique
    flat = [{bytes(image.numpy()) for image in part.pixels.flatten(1)} for part in (train, test)]
    assert not flat[0] & flat[1]


def test_digits_have_always_been_these() -> None:
    assert digits("train").digest == "552de525f20cebd99bd13053c29bcff2"
    assert digits("train").label.dtype == torch.int64
