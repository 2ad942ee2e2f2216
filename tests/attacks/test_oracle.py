"""AutoAttack beside its authors' code: robust images after every stage, on small networks trained for seconds."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L2, Ball, Linf
from unshaken.attacks.base import Attack, Model, wrong
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.nets.network import seeded

theirs = pytest.importorskip("pyautoattack")
STEPS = 40
"""Of every search but Square's: enough to be at its end on networks as small as these."""


def trained(images: Images, attack: PGD, steps: int, width: int) -> nn.Module:
    """A CNN of two convolutions, on adversarial images."""
    channels = images.pixels.shape[1]
    side = images.pixels.shape[-1] // 4
    layers = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(width * side**2, 10),
    )  # fmt: skip
    net = seeded(layers, Key(0))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(steps):
        index = torch.randint(len(images), (128,), generator=(Key(0) / step).on("cpu"))
        x, y = images.floats(index), images.label[index]
        x = attack.maximise(lambda x, y=y: cross_entropy(net(x), y), x, (Key(0) / step / "attack").on("cpu"))
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def stages(ball: Ball, net: nn.Module, targets: int, queries: int) -> dict[str, tuple[Attack, object]]:
    """Ours and theirs by name, with the parameters of `standard` but for the numbers of steps, targets and queries."""
    authors = theirs.AutoAttack(net, norm="Linf" if isinstance(ball, Linf) else "L2", eps=ball.eps, seed=0)
    authors.fab.targeted, authors.square.n_queries = True, queries
    authors.apgd.n_iter = authors.apgd_targeted.n_iter = authors.fab.n_iter = STEPS
    authors.fab.n_target_classes = authors.apgd_targeted.n_target_classes = targets
    both = {"apgd-t": authors.apgd_targeted, "fab-t": authors.fab, "square": authors.square, "apgd-ce": authors.apgd}
    return {
        name: (attack, both[name].perturb)
        for name, attack in AutoAttack(ball, steps=STEPS, targets=targets, queries=queries).stages
    }


def compare(net: nn.Module, x: Tensor, y: Tensor, ball: Ball, targets: int, queries: int) -> None:
    """On the survivors of the last stage, each side's own."""
    right = ~wrong(net(x), y)
    x, y = x[right], y[right]
    ours = authors = torch.ones(len(x), dtype=torch.bool)
    for name, (attack, perturb) in stages(ball, net, targets, queries).items():
        ours, authors = ours.clone(), authors.clone()
        ours[ours.clone()] = ~wrong(net(attack(Model(net), x[ours], y[ours], Key(0) / name)), y[ours])
        authors[authors.clone()] = ~wrong(net(perturb(x[authors], y[authors])), y[authors])
        assert abs(int(ours.sum()) - int(authors.sum())) <= 1, name
    assert int(ours.sum()) == int(authors.sum())
    assert 3 < ours.sum() < len(x) - 3


def alone(net: nn.Module, x: Tensor, y: Tensor, ball: Ball, targets: int, queries: int) -> dict[str, tuple[int, int]]:
    """Robust images of each attack by itself."""
    right = ~wrong(net(x), y)
    x, y = x[right], y[right]
    return {
        name: tuple(int((~wrong(net(x_adv), y)).sum()) for x_adv in (attack(Model(net), x, y, Key(0)), perturb(x, y)))
        for name, (attack, perturb) in stages(ball, net, targets, queries).items()
    }


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    net = trained(DataSource("digits").load("train"), PGD(Linf(0.1), steps=2, rel_step_size=0.7), 150, 12)
    test = DataSource("digits").load("test")
    return net, test.floats(slice(25)), test.label[:25]


@pytest.mark.extra
def test_digits(digits):
    compare(*digits, Linf(0.1), targets=3, queries=300)


@pytest.mark.extra
@pytest.mark.parametrize("ball", [Linf(0.15), L2(0.7)], ids=str)
def test_every_attack_alone_on_digits(digits, ball):
    """Their squares leave out the last row and column, which costs them images of 8 pixels."""
    for name, (ours, authors) in alone(*digits, ball, targets=3, queries=300).items():
        assert -3 * (name == "square") - 1 <= ours - authors <= 1, (name, ours, authors)


@pytest.mark.extra
@pytest.mark.skipif("UNSHAKEN_DATA" not in os.environ, reason="UNSHAKEN_DATA names no folder with CIFAR in Parquet")
def test_cifar10(tmp_path):
    source = DataSource(str(Path(os.environ["UNSHAKEN_DATA"], "cifar10")), str(tmp_path), limit=2000)
    net = trained(source.load("train"), PGD(Linf(4 / 255), steps=2, rel_step_size=0.7), 150, 16)
    test = source.load("test")
    compare(net, test.floats(slice(32)), test.label[:32], Linf(4 / 255), targets=4, queries=200)
