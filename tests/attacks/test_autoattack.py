"""AutoAttack and its parts: the exact robust accuracy of linear classifiers, and what an attack on a classifier is."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from unshaken.attacks.apgd import APGD
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import L2, Ball, Linf
from unshaken.attacks.base import Attack, Model, wrong
from unshaken.attacks.fab import FAB
from unshaken.attacks.pgd import PGD
from unshaken.attacks.square import Square
from unshaken.attacks.targeted import TargetedPGD
from unshaken.base.rng import Key
from variants import variants

BALLS = [Linf(0.02), L2(0.08)]
ATTACKS = {
    "apgd-ce": APGD(steps=30),
    "apgd-dlr": APGD(loss="dlr", steps=30),
    "apgd-t": APGD(loss="dlr", targets=9, steps=30),
    "apgd-ce-t": APGD(targets=9, steps=30),
    "apgd-draws": APGD(steps=30, draws=2),
    "fab": FAB(targets=0, steps=30),
    "fab-t": FAB(steps=30),
    "square": Square(queries=1000),
    "pgd": TargetedPGD(PGD(steps=30), targets=0),
    "pgd-t": TargetedPGD(PGD(steps=30)),
    "autoattack": AutoAttack(steps=20, queries=50),
}
NEAR = {ATTACKS[name]: 0.7 for name in ("apgd-ce", "apgd-dlr", "apgd-draws", "pgd")} | {ATTACKS["square"]: 0.4}
"""Part of eps up to which an attack is sure to win, where that is not 99 %: what goes away from the label may go for
another class than the nearest, and squares of this noise gain little."""
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


@dataclass(frozen=True)
class Linear:
    """⟨w_i, x − ½⟩, and images whose distance from the nearest boundary, in units of eps, is known."""

    w: Tensor
    x: Tensor
    y: Tensor
    ratio: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.w.T

    @classmethod
    def of(cls, classes: int, ball: Ball, ratio: Tensor) -> Linear:
        """Distance is margin over dual norm, and grows in proportion with x − ½."""
        rng = Key(classes).on("cpu")
        w, v = 30 * torch.randn(classes, 48, generator=rng), torch.rand(400, 48, generator=rng) - 0.5
        z = v @ w.T
        y = z.argmax(1)
        normals = w[y][:, None] - w[None]
        dual = normals.abs().sum(-1) if isinstance(ball, Linf) else normals.norm(dim=-1)
        away = (z.gather(1, y[:, None]) - z) / dual
        away = away.masked_fill(nn.functional.one_hot(y, classes).bool(), torch.inf).amin(1)
        clearest = away.topk(len(ratio)).indices
        v, y, away = v[clearest], y[clearest], away[clearest]
        x = 0.5 + (v * (ratio * ball.eps / away)[:, None]).view(-1, 3, 4, 4)
        assert (x - 0.5).abs().max() < 0.5 - ball.eps  # no step meets 0 or 1
        return cls(w, x, y, ratio)


def within(attack: Attack, ball: Ball) -> Attack:
    if isinstance(attack, TargetedPGD):
        return replace(attack, pgd=replace(attack.pgd, ball=ball))
    return replace(attack, ball=ball)


@pytest.mark.parametrize(
    ("ball", "classes"), variants([(BALLS[0], 10), (BALLS[1], 3), (BALLS[0], 2)], [(BALLS[1], 3)]), ids=str
)
@each_attack
def test_the_robust_accuracy_of_a_linear_classifier_is_exact(attack, ball, classes):
    near = NEAR.get(attack, 0.99)
    model = Linear.of(classes, ball, torch.cat([torch.linspace(0.1, near, 12), torch.linspace(1.01, 1.5, 8)]))
    robust = model.ratio > 1
    x_adv = within(attack, ball)(Model(model), model.x, model.y, Key(0))
    assert torch.equal(~wrong(model(x_adv), model.y), robust)
    assert torch.equal((x_adv == model.x).flatten(1).all(1), robust)


def network(classes: int = 10) -> nn.Module:
    """Small, curved, and as certain as a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, classes),
        )
        net[-1].weight.data *= 10
    return net.eval()


def task(classes: int = 10, n: int = 30) -> tuple[nn.Module, Tensor, Tensor]:
    net = network(classes)
    x = torch.rand(n, 3, 8, 8, generator=Key("images").on("cpu")).mul(1.4).sub(0.2).clamp(0, 1)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def short(attack: Attack, ball: Ball) -> Attack:
    """Over before every image has fallen."""
    if isinstance(attack, AutoAttack):
        return replace(attack, ball=ball, steps=3, queries=10)
    if isinstance(attack, TargetedPGD):
        return replace(attack, pgd=PGD(ball, steps=5))
    return replace(attack, ball=ball, **({"queries": 100} if isinstance(attack, Square) else {"steps": 5}))


SMALL = [Linf(0.004), L2(0.05)]
each_small_ball = pytest.mark.parametrize("ball", variants(SMALL, SMALL[1:]), ids=str)


@each_small_ball
@each_attack
def test_what_comes_back(attack, ball):
    """Valid images in the ball; misclassified where they differ from x, and some do and some do not."""
    net, x, y = task()
    before, asked = (x.clone(), y.clone()), []

    def logits(x: Tensor) -> Tensor:
        asked.append(x.detach())
        return net(x)

    x_adv = short(attack, ball)(Model(logits), x, y, Key(0))
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], y)
    assert ball.distance(x_adv, x).max() <= ball.eps * (1 + 1e-5)
    assert all(tried.min() >= 0 and tried.max() <= 1 for tried in (*asked, x_adv))
    differs = (x_adv != x).flatten(1).any(1)
    assert 0 < differs.sum() < len(x)
    assert torch.equal(differs, wrong(net(x_adv), y))
    assert not x_adv.requires_grad


@each_attack
def test_an_attack_depends_on_its_key_alone(attack):
    net, x, y = task()
    attack, state = short(attack, SMALL[1]), torch.get_rng_state()
    once, again, other = (attack(Model(net), x, y, key) for key in (Key(1), Key(1), Key(2)))
    assert torch.equal(once, again)
    assert torch.equal(torch.get_rng_state(), state)
    if not isinstance(attack, FAB):  # without restarts it draws nothing
        assert not torch.equal(once, other)


def test_restarts_of_fab_begin_in_half_the_ball():
    net, x, y = task(n=4)

    def begun(key: Key) -> list[Tensor]:
        asked = []
        logits = lambda x: asked.append(x.detach()) or net(x) * 0 + nn.functional.one_hot(y, 10)  # noqa: E731
        FAB(Linf(0.1), targets=1, steps=1, restarts=3)(Model(logits), x, y, key)
        return asked[1::2]  # after the one that chooses targets: where each restart begins, and what it tries

    first, second, third = begun(Key(0))
    assert torch.equal(first, x)
    for start in (second, third):
        assert Linf(0.1).distance(start, x).min() > 0.04
        assert Linf(0.1).distance(start, x).max() <= 0.05 + 1e-6
    assert not torch.equal(second, third)
    assert not torch.equal(second, begun(Key(1))[1])


@each_attack
def test_networks_are_left_alone(attack):
    net, x, y = task()
    net.train()[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    modes, state = [m.training for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}
    for p in net.parameters():
        p.register_hook(lambda _: pytest.fail("a weight's gradient was computed"))
    short(attack, SMALL[0])(Model(net), x, y, Key(0))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert [p.grad is None for p in net.parameters()] == [p is not net[0].weight for p in net.parameters()]


@each_attack
def test_what_exact_refutes_does_not_count(attack):
    """A search that sees boundaries elsewhere: what it claims by itself is not all true, and what counts is."""
    net, x, y = task(n=60)
    blurred = copy.deepcopy(net)
    blurred[-1].bias.data += torch.linspace(-0.3, 0.3, 10)
    both = net(x).argmax(1) == blurred(x).argmax(1)
    x, y, attack = x[both], y[both], short(attack, Linf(0.005 if isinstance(attack, TargetedPGD) else 0.02))
    alone, held = attack(Model(blurred), x, y, Key(0)), attack(Model(blurred, net), x, y, Key(0))
    assert ((alone != x).flatten(1).any(1) & ~wrong(net(alone), y)).any()
    assert torch.equal((held != x).flatten(1).any(1), wrong(net(held), y))
    assert wrong(net(held), y).any()


@each_small_ball
def test_the_ensemble_is_its_stages_on_the_survivors_of_the_last(ball):
    net, x, y = task()
    ensemble = AutoAttack(ball, steps=3, queries=10)
    assert [name for name, _ in ensemble.stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    x_adv, standing = x.clone(), torch.arange(len(x))
    for name, attack in ensemble.stages:
        x_adv[standing] = attack(Model(net), x[standing], y[standing], Key(0) / name)
        standing = standing[~wrong(net(x_adv[standing]), y[standing])]
    assert torch.equal(ensemble(Model(net), x, y, Key(0)), x_adv)


def test_pgd_at_a_classifier_is_pgd():
    """Untargeted, of the first restart: the same steps on the sum of cross-entropies, where they succeed."""
    net, x, y = task()
    pgd = PGD(SMALL[0], steps=5)
    x_adv = pgd.maximise(
        lambda x: nn.functional.cross_entropy(net(x), y, reduction="sum"), x, (Key(0) / 0 / 0).on("cpu")
    )
    found = TargetedPGD(pgd, targets=0)(Model(net), x, y, Key(0))
    fell = wrong(net(x_adv), y)
    assert 0 < fell.sum() < len(x)
    assert torch.equal(found, torch.where(fell[:, None, None, None], x_adv, x))
    more = TargetedPGD(replace(pgd, restarts=5), targets=0)(Model(net), x, y, Key(0))
    assert torch.equal(more[fell], x_adv[fell])
    assert wrong(net(more), y).sum() >= fell.sum()


def test_the_standard_parameters():
    """Of the authors' `standard`, `plus` and `rand`."""
    ball = L2(0.5)
    standard = dict(AutoAttack(ball).stages)
    assert standard == {
        "apgd-ce": APGD(ball, "ce", targets=0, steps=100, restarts=1, rho=0.75, alpha=0.75, draws=1),
        "apgd-t": APGD(ball, "dlr", targets=9, steps=100, restarts=1, rho=0.75, alpha=0.75, draws=1),
        "fab-t": FAB(ball, targets=9, steps=100, restarts=1, alpha_max=0.1, eta=1.05, beta=0.9),
        "square": Square(ball, queries=5000, part=0.8, schedule=10000, restarts=1),
    }
    plus = AutoAttack(ball, "plus").stages
    assert [name for name, _ in plus] == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [attack.restarts for _, attack in plus] == [5, 5, 5, 1, 1, 1]
    assert [attack for name, attack in plus if name in standard][1:] == [
        standard[n] for n in ("square", "apgd-t", "fab-t")
    ]
    assert dict(plus)["fab"].targets == dict(plus)["apgd-dlr"].targets == 0
    rand = dict(AutoAttack(ball, "rand").stages)
    assert rand == {f"apgd-{loss}": APGD(ball, loss, steps=100, draws=20) for loss in ("ce", "dlr")}


def test_no_image_is_asked_about_after_it_has_fallen():
    """Three are misclassified from the start, and three for ever right."""
    seen: list[int] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(len(x))
        value = x.mean((1, 2, 3))
        return torch.stack([value - value.detach() + 1, value.detach() * 0 + value], 1)

    x = torch.rand(6, 1, 8, 8, generator=Key(0).on("cpu"))
    APGD(Linf(0.01), steps=4)(Model(logits), x, torch.tensor([1, 0, 1, 0, 0, 1]), Key(0))
    assert seen == [6, 3, 3, 3, 3]


@each_attack
def test_logits_that_are_no_numbers_are_wrong_answers_and_harm_no_other_image(attack):
    net, x, y = task()

    def broken(x: Tensor) -> Tensor:
        z = net(x)
        return torch.where((x[:, :1, 0, 0] > 0.5), z * torch.nan, z)

    broke = x[:, 0, 0, 0] > 0.51
    x_adv = short(attack, SMALL[0])(Model(broken), x, y, Key(0))
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert wrong(broken(x_adv), y)[broke].all()
    assert not wrong(broken(x_adv), y).all()


@pytest.mark.parametrize(
    ("attack", "fields"),
    [
        (APGD, {"steps": 0}),
        (APGD, {"draws": 0}),
        (APGD, {"targets": -1}),
        (FAB, {"steps": 0}),
        (FAB, {"restarts": 0}),
        (Square, {"queries": -1}),
        (Square, {"schedule": 0}),
        (Square, {"part": 0}),
        (Square, {"part": 2}),
        (TargetedPGD, {"targets": -1}),
        (AutoAttack, {"steps": 0}),
        (AutoAttack, {"targets": 0}),
    ],
)
def test_fields_that_make_no_attack(attack, fields):
    with pytest.raises(ValueError, match=f", not .*{next(iter(fields.values()))}"):
        attack(**fields)
