"""An encoder to be measured: a copy with the same embeddings, prepared by the runtime."""

from dataclasses import replace

import pytest
import torch

import unshaken
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.evaluation.drift_under_attack import drift_under_attack
from unshaken.evaluation.embedder import embedder
from unshaken.evaluation.linear_probe import features_of
from unshaken.nets.backbone import Backbone
from unshaken.nets.network import frozen
from unshaken.runs import checkup, robustify


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    net = Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,)).build()
    net.train()(digits().floats(slice(0, 64)))
    return net.eval()


def digits() -> Images:
    return unshaken.DataSource("digits", limit=96).load("train")


def test_it_is_a_prepared_copy_with_the_same_embeddings(encoder):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    fast, plain = (embedder(encoder, Runtime(threads=1, computation=ways)) for ways in (("auto",), ("plain",)))
    assert fast.computation.folder is not None
    assert plain.computation.folder is None
    assert embedder(encoder, Runtime(threads=1, precision="bf16")).computation.precision is torch.float32
    x = digits().floats(slice(0, 96))
    with torch.no_grad():
        z = encoder(x)
    for net in (fast, plain):
        torch.testing.assert_close(features_of(net, digits()), z, rtol=1e-4, atol=1e-5)
        with frozen(net):
            torch.testing.assert_close(net(x, "shared"), z, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_the_drift_does_not_depend_on_the_ways(encoder):
    found = [
        drift_under_attack(
            embedder(encoder, replace(Runtime(threads=1), computation=ways)), digits(), PGD(Linf(0.05), 5), 32, Key(0)
        )
        for ways in (("auto",), ("plain",))
    ]
    assert found[0].relative == pytest.approx(found[1].relative, rel=1e-2)
    assert abs(found[0].lost - found[1].lost) <= 1


def test_the_label_free_measures_go_through_it():
    """They attack for minutes, so that a network that is not prepared costs twice the time."""
    assert checkup.embedder is robustify.embedder is embedder
