"""Pseudo-labels: clusters that are there are found, by number, and the same each time."""

import copy

import pytest
import torch

from unshaken.base.rng import Key
from unshaken.methods.pseudo_labels import clusters, features
from unshaken.nets.backbone import Backbone
from unshaken.nets.network import seeded


def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Sixty points around four far centres, and whose they are."""
    rng = Key("blobs").on("cpu")
    centre = 20 * torch.eye(4)
    kind = torch.arange(60) % 4
    return centre[kind] + torch.randn(60, 4, generator=rng), kind


def test_separated_clusters_are_found():
    f, kind = blobs()
    label = clusters(f, (4,), Key(0))
    assert label.shape == (60, 1)
    assert label.dtype == torch.int64
    pairs = {(a, b) for a, b in zip(kind.tolist(), label[:, 0].tolist(), strict=True)}
    assert len(pairs) == 4 == len({b for _, b in pairs})


def test_each_number_of_clusters_has_a_column_that_depends_on_the_key():
    f, _ = blobs()
    label = clusters(f, (2, 5, 12), Key(0))
    assert [len(set(column.tolist())) for column in label.T] == [2, 5, 12]
    assert torch.equal(label, clusters(f, (2, 5, 12), Key(0)))
    assert not torch.equal(label, clusters(f, (2, 5, 12), Key(1)))
    assert torch.equal(label[:, 1], clusters(f, (5,), Key(0))[:, 0])  # one number's labels do not hang on the others


def test_more_clusters_than_images_are_refused():
    with pytest.raises(ValueError, match="60 images cannot form 61 clusters"):
        clusters(blobs()[0], (10, 61), Key(0))


def test_features_use_eval_mode_and_leave_the_encoder_unchanged():
    encoder = seeded(lambda: Backbone("resnet-small", 8, 1, (0.5,), (0.5,)).build(), Key(0)).train()
    x = torch.rand(5, 1, 8, 8, generator=Key(1).on("cpu"))
    state = copy.deepcopy(encoder.state_dict())
    f = features(encoder, x)
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    assert not f.requires_grad
    assert torch.equal(f, encoder.eval()(x))
