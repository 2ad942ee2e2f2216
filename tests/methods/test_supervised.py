"""ST, SAT and TRADES: cross-entropy and KL by loops, and what the attack sees."""

import copy
from math import exp, log

import pytest
import torch
from torch import Tensor, nn

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.types import Batch
from unshaken.methods.base import Step
from unshaken.methods.supervised import SAT, ST, TRADES
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.network import Network, seeded


@pytest.fixture
def classifier() -> Network:
    def build() -> Network:
        encoder = Backbone("resnet-small", 8, 1, (0.5,), (0.25,)).build()
        return Network(encoder, nn.Linear(encoder.features, 3))

    return with_routes(seeded(build, Key(0)), ("shared",))


@pytest.fixture
def labelled(batch) -> Batch:
    return Batch(batch.views[:1], batch.image, torch.tensor([0, 1, 2, 0, 1, 2]), batch.index)


@pytest.fixture
def seen(classifier) -> list[tuple[Tensor, bool, Tensor]]:
    """Of every forward pass: what went in, whether in train mode, and what came out."""
    passes: list[tuple[Tensor, bool, Tensor]] = []
    classifier.register_forward_hook(lambda net, given, out: passes.append((given[0], net.encoder.training, out)))
    return passes


def probabilities(row: Tensor) -> list[float]:
    powers = [exp(value) for value in row.detach().double().tolist()]
    return [power / sum(powers) for power in powers]


def surprise(logits: Tensor, label: Tensor) -> float:
    return -sum(log(probabilities(row)[y]) for row, y in zip(logits, label.tolist(), strict=True)) / len(label)


def divergence(p: Tensor, q: Tensor) -> float:
    """The mean of Σ p log(p/q) over rows."""
    rows = [(probabilities(a), probabilities(b)) for a, b in zip(p, q, strict=True)]
    return sum(a * log(a / b) for one, other in rows for a, b in zip(one, other, strict=True)) / len(rows)


def test_st_learns_from_clean_images(classifier, labelled, clock, seen):
    terms = Step(ST(), classifier).train()(labelled, clock, Key(0))
    ((x, training, logits),) = seen
    assert torch.equal(x, labelled.views[0])
    assert training
    assert terms["loss"].item() == pytest.approx(surprise(logits, labelled.label), rel=1e-5)


def test_sat_learns_from_adversarial_images_alone(classifier, labelled, clock, seen):
    terms = Step(SAT(PGD(Linf(0.1), steps=4)), classifier).train()(labelled, clock, Key(0))
    assert [training for _, training, _ in seen] == [False] * 4 + [True]
    x_adv, _, logits = seen[-1]
    assert Linf(0.1).distance(x_adv, labelled.views[0]).max() <= 0.1 * (1 + 1e-5)
    assert terms["loss"].item() == pytest.approx(surprise(logits, labelled.label), rel=1e-5)
    classifier.eval()
    start = seen[0][0]
    worse, before = (surprise(classifier(x, "shared"), labelled.label) for x in (x_adv, start))
    assert worse > before


def test_trades_adds_beta_times_the_divergence(classifier, labelled, clock, seen):
    terms = Step(TRADES(PGD(Linf(0.1), steps=3, init="gaussian"), beta=4.0), classifier).train()(
        labelled, clock, Key(0)
    )
    assert [training for _, training, _ in seen] == [False] * 4 + [True] * 2
    (x, _, clean), (x_adv, _, adv) = seen[-2:]
    assert torch.equal(x, labelled.views[0])
    assert terms["natural"].item() == pytest.approx(surprise(clean, labelled.label), rel=1e-4)
    assert terms["robust"].item() == pytest.approx(divergence(clean, adv), rel=1e-3)
    assert terms["loss"].item() == pytest.approx(terms["natural"].item() + 4 * terms["robust"].item(), rel=1e-5)
    classifier.eval()
    target = classifier(x, "shared")
    further, near = (divergence(target, classifier(image, "shared")) for image in (x_adv, seen[1][0]))
    assert further > near


@pytest.mark.parametrize("method", [ST(), SAT(PGD(steps=1)), TRADES(PGD(steps=1))], ids=["st", "sat", "trades"])
def test_a_step_changes_all_weights(method, classifier, labelled, clock):
    before = copy.deepcopy(classifier.state_dict())
    step = Step(method, classifier).train()
    rule = torch.optim.SGD(classifier.parameters(), lr=0.1)
    step(labelled, clock, Key(0))["loss"].backward()
    rule.step()
    still = {n for n, t in classifier.state_dict().items() if torch.equal(t, before[n])}
    assert still == {"encoder.normalize.mean", "encoder.normalize.std"}


def test_the_defaults():
    assert SAT() == SAT(PGD(Linf(8 / 255), steps=10, init="uniform"))
    assert TRADES() == TRADES(PGD(Linf(8 / 255), steps=10, init="gaussian"), beta=6.0)
