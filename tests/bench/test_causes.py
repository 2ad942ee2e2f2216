"""What is measured of AIR's forms, of RCS's gain and of clusters, against small cases that are known."""

from types import SimpleNamespace

import pytest
import torch
from bench.air_forms import LAMBDA, MeasuredACL
from bench.clusters import purity
from bench.rcs_gain import gains

from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.coreset.rcs import RCS
from unshaken.methods.air import AIR


def test_purity_counts_the_most_frequent_class_of_each_cluster():
    assert purity(torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([3, 3, 1, 1, 0, 2])) == 2 + 1 + 1


def test_ratio_and_cosine_are_those_of_the_two_losses_gradients():
    rng, clock = Key("embeddings").on("cpu"), Clock(0, 0, 0.5, 1)
    inputs = [torch.randn(shape, generator=rng).double() for shape in ((6, 4), (2, 6, 4), (2, 6, 4))]
    found = MeasuredACL().gradients(*inputs, clock)
    air, flat = AIR(lambda1=LAMBDA, lambda2=LAMBDA, divergence="normalized"), torch.cat([x.flatten() for x in inputs])

    def parts(v):
        return v[:24].view(6, 4), v[24:72].view(2, 6, 4), v[72:].view(2, 6, 4)

    def slope(loss):  # by central differences; NT-Xent is computed in float32
        steps = torch.eye(len(flat), dtype=torch.float64) * 1e-3
        return torch.stack([(loss(flat + h) - loss(flat - h)) / 2e-3 for h in steps]).double()

    acl = slope(lambda v: air.acl.contrast(parts(v)[1], parts(v)[2], clock)["loss"])
    added = slope(lambda v: LAMBDA * air.standard(parts(v)[0], parts(v)[2]) + LAMBDA * air.adversarial(*parts(v)))
    assert float(found["normalized_norm"]) == pytest.approx(float(added.norm() / acl.norm()), rel=2e-3)
    cosine = float(added @ acl / added.norm() / acl.norm())
    assert float(found["normalized_cosine"]) == pytest.approx(cosine, rel=2e-3)


def test_the_gain_is_how_far_a_step_along_the_picks_lowers_the_divergence(monkeypatch):
    q = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    monkeypatch.setattr("bench.rcs_gain.released.average_outputs", lambda r: r)
    problem = SimpleNamespace(
        theta={"w": torch.tensor([1.0, 1.0])},
        batches=[None] * 3,
        gradients=lambda batches, granularity: SimpleNamespace(of=lambda b: {"w": q[b]}, along=lambda r: q @ r["w"]),
        validation=lambda theta, distance, attack: lambda theta: (theta["w"] * torch.tensor([2.0, 5.0])).sum(),
    )
    paper, theirs = gains(problem, [0, 1])
    assert paper == pytest.approx(RCS().eta * (2 + 10), rel=2e-3)
    assert theirs == pytest.approx(2 + 10)
