"""Heads: widths, biases and batch norms as the papers have them; a fork is taken apart as it was put together."""

import pytest
import torch
from torch import nn

from unshaken.base.rng import Key
from unshaken.nets.heads import LinearClassifier, NoHead, Projection, ProjectionWithClassifiers, zero_classifier
from unshaken.nets.network import seeded


@pytest.mark.parametrize(
    ("head", "widths", "norms", "biases"),
    [
        (Projection(3), [16, 16, 16, 16], 3, [True, False, False]),  # ACL
        (Projection(2), [16, 16, 16], 2, [True, False]),
        (Projection(2, out=8, norm="hidden"), [16, 16, 8], 1, [True, True]),  # AdvCL: 512, 512, 128
        (Projection(2, hidden=32, out=8, norm="none"), [16, 32, 8], 0, [True, True]),  # RoCL: 512, 2048, 128
    ],
)
def test_projections(head, widths, norms, biases):
    net = head.build(16)
    layers = [part for part in net if isinstance(part, nn.Linear)]
    assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
    assert [layer.bias is not None for layer in layers] == biases
    assert sum(isinstance(part, nn.BatchNorm1d) for part in net) == norms
    assert sum(isinstance(part, nn.ReLU) for part in net) == head.layers - 1
    assert not isinstance(net[-1], nn.ReLU)


def test_a_fork_gives_the_projection_and_each_labelling_s_logits():
    fork = seeded(lambda: ProjectionWithClassifiers(Projection(2, out=8, norm="none")).build(16, (2, 5)), Key(0))
    x = torch.rand(3, 4, 16, generator=Key(1).on("cpu"))
    z, two, five = fork.split(fork(x))
    assert torch.equal(z, fork.projection(x))
    assert torch.equal(two, fork.classifiers[0](x))
    assert torch.equal(five, fork.classifiers[1](x))
    assert (two.shape, five.shape) == ((3, 4, 2), (3, 4, 5))


def test_the_published_fork_s_width():
    fork = ProjectionWithClassifiers().build(512, (2, 10, 50, 100, 500))
    assert fork.widths == (128, 2, 10, 50, 100, 500)


def test_a_classifier_is_for_one_labelling_and_nothing_is_nothing():
    assert LinearClassifier().build(16, (7,)).weight.shape == (7, 16)
    for classes in ((), (2, 5)):
        with pytest.raises(ValueError, match="needs one set of labels"):
            LinearClassifier().build(16, classes)
    x = torch.rand(2, 16)
    assert torch.equal(NoHead().build(16)(x), x)
    assert not zero_classifier(16, 3)(x).any()
