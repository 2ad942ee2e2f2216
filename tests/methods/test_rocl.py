"""RoCL: the paper's two terms in loops, and the values of the released code."""

import copy
from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.types import Batch
from unshaken.methods.base import Step
from unshaken.methods.rocl import RoCL
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection
from unshaken.nets.network import Network, seeded

FORMS = ("paper", "released")
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def net(batch: Batch) -> Network:
    """One route, a projection without batch norms, and running statistics of the batch."""

    def build() -> Network:
        encoder = Backbone("resnet-small", 8, 1, (0.5,), (0.25,)).build()
        return Network(encoder, Projection(2, out=12, norm="none").build(encoder.features))

    net = with_routes(seeded(build, Key(0)), ("shared",)).train()
    for _ in range(20):
        net(batch.views, "shared")
    return net


def con(anchor: Tensor, positives: list[Tensor], k: int, tau: float) -> float:
    """L_con of image k: positives within one logarithm; negatives, the other images in the views of both."""
    row = normalize(anchor[k].detach().double(), dim=0)
    e = [[exp(float(row @ normalize(z[m].detach().double(), dim=0)) / tau) for m in range(len(z))] for z in positives]
    own = [exp(float(row @ normalize(z.detach().double(), dim=0)) / tau) for z in anchor]
    positive = sum(values[k] for values in e)
    negative = sum(value for values in (*e, own) for m, value in enumerate(values) if m != k)
    return -log(positive / (positive + negative))


@pytest.mark.parametrize("weight", [0.0, 1 / 256, 0.5])
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_loss_is_the_equation_of_the_paper(tau, weight, net, batch, clock, calls):
    terms = RoCL(tau=tau, weight=weight).loss(net, batch, clock, Key(0))
    t, other, adv = calls[-1].z
    images = range(len(t))
    contrast = sum(con(t, [other, adv], k, tau) for k in images) / len(t)
    apart = sum(con(adv, [other], k, tau) for k in images) / len(t)
    assert terms["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    assert terms["adv"].item() == pytest.approx(apart, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(contrast + weight * apart, rel=1e-5)


def rows(z: Tensor, tau: float) -> list[list[Tensor]]:
    """−log e(z_i, sg(z_j)) / Σ_{l ≠ i} e(z_i, sg(z_l)) of every two of the VN embeddings, as the released code."""
    flat = normalize(z.double(), dim=-1).flatten(0, 1)
    fixed = flat.detach()
    e = [[(a @ b / tau).exp() for b in fixed] for a in flat]
    return [[-(e[i][j] / (sum(e[i]) - e[i][i])).log() for j in range(len(flat))] for i in range(len(flat))]


def released(z: Tensor, tau: float) -> Tensor:
    """The off-diagonal positives of all blocks, over the number of rows."""
    loss, (V, N) = rows(z, tau), z.shape[:2]
    blocks = [(u, v) for u in range(V) for v in range(V) if u != v]
    return sum(loss[u * N + k][v * N + k] for u, v in blocks for k in range(N)) / (V * N)


def embeddings(views: int) -> Tensor:
    return torch.randn(views, 4, 3, generator=Key("z").on("cpu")).requires_grad_()


def same(ours: Tensor, theirs: Tensor, z: Tensor) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_released_terms_and_their_gradients(tau):
    method = RoCL(tau=tau, form="released")
    z = embeddings(3)
    same(method.contrast(z), released(z, tau), z)
    z_pair = embeddings(2)
    same(method.apart(z_pair), released(z_pair, tau), z_pair)


def test_the_released_terms_are_the_published_code_s():
    """Values of Kim-Minseon/RoCL, loss.py at b6d5185, on these embeddings; and the gradients' norms, view by view."""
    method = RoCL(form="released")
    for views, term, value, norms in (
        (3, method.contrast, 5.478081, [0.206582, 0.249685, 0.266845]),
        (2, method.apart, 1.887270, [0.251847, 0.254561]),
    ):
        z = (torch.arange(views * 5 * 6, dtype=torch.float64) ** 2 * 0.37).sin().view(views, 5, 6).requires_grad_()
        loss = term(z)
        (grad,) = torch.autograd.grad(loss, z)
        assert loss.item() == pytest.approx(value, rel=1e-5)
        assert grad.flatten(1).norm(dim=1).tolist() == pytest.approx(norms, rel=1e-4)


def test_the_released_objective(net, batch, clock, calls):
    terms = RoCL(weight=0.3, form="released").loss(net, batch, clock, Key(0))
    pair, views = calls[-2].z, calls[-1].z
    assert terms["loss"].item() == pytest.approx((released(views, 0.5) + 0.3 * released(pair, 0.5)).item(), rel=1e-5)


def shapes(calls) -> list[tuple[int, bool]]:
    return [(call.x[..., 0, 0, 0].numel(), call.modes == {True}) for call in calls]


def test_the_attack_is_in_eval_mode_and_the_update_one_pass_in_train_mode(net, batch, clock, calls):
    RoCL(PGD(steps=3)).loss(net, batch, clock, Key(0))
    assert shapes(calls) == [(6, False)] * 4 + [(18, True)]
    assert {call.route for call in calls} == {"shared"}
    assert torch.equal(calls[0].x, batch.views[1])  # the target, once
    assert not calls[0].z.requires_grad
    assert torch.equal(calls[-1].x[:2], batch.views)
    assert not calls[-1].x.requires_grad
    assert not torch.equal(calls[-1].x[2], batch.views[0])


def test_the_released_update_embeds_the_pair_once_more_and_first(net, batch, clock, calls):
    RoCL(PGD(steps=3), form="released").loss(net, batch, clock, Key(0))
    assert shapes(calls) == [(6, False)] * 4 + [(12, True), (18, True)]
    pair, views = calls[-2].x, calls[-1].x
    assert torch.equal(pair[0], views[2])
    assert torch.equal(pair[1], batch.views[1])


@pytest.mark.parametrize(("form", "updates"), [("paper", 1), ("released", 2)])
def test_the_statistics_are_those_of_the_update(form, updates, net, batch, clock):
    norm = net.encoder.backbone.bn1.routes["shared"]
    before = int(norm.num_batches_tracked)
    RoCL(form=form).loss(net, batch, clock, Key(0))
    assert int(norm.num_batches_tracked) == before + updates


@each_form
@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(0.5)], ids=str)
def test_the_attack_raises_its_loss_within_the_ball(ball, form, net, batch):
    method, base = RoCL(PGD(ball, steps=7), form=form), batch.views[0]
    x_adv = method.adversarial(net, batch.views, Key(0))
    start = RoCL(PGD(ball, steps=0)).adversarial(net, batch.views, Key(0))
    assert x_adv.shape == base.shape
    assert ball.distance(x_adv, base).max() <= ball.eps * (1 + 1e-5)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    net.eval()
    loss, at_start, at_base = (
        method.apart(net(torch.stack([x, batch.views[1]]), "shared")).item() for x in (x_adv, start, base)
    )
    assert loss > at_start
    assert loss > at_base


def objective(z: Tensor, form: str) -> Tensor:
    """What moves the first view, spelled out in float64: by its own rows, or all of them with fixed columns."""
    flat = normalize(z.double(), dim=-1).flatten(0, 1)
    count = len(flat) // 2
    e = (flat @ (flat if form == "paper" else flat.detach()).T / 0.5).exp()
    loss = [-(e[i, (i + count) % (2 * count)] / (e[i].sum() - e[i, i])).log() for i in range(2 * count)]
    return sum(loss[:count]) / count if form == "paper" else sum(loss) / (2 * count)


@each_form
def test_the_attack_s_steps(form, net, batch):
    """7 steps of 0.007 within 8/255 along the sign, from a uniform start around the first view."""
    (x, other), eps, twin = batch.views, 8 / 255, copy.deepcopy(net).eval()
    x_adv = Linf(eps).sample(x, (Key(3) / "attack").on("cpu"))
    for _ in range(7):
        x_adv.requires_grad_()
        loss = objective(twin(torch.stack([x_adv, other]), "shared"), form)
        step = 0.007 * torch.autograd.grad(loss, x_adv)[0].sign()
        x_adv = (x_adv.detach() + step).clamp(x - eps, x + eps).clamp(0, 1)
    ours = RoCL(form=form).adversarial(net, batch.views, Key(3))
    assert ((ours - x_adv).abs() < 1e-4).float().mean() > 0.95  # 0.0314 is not quite 8/255; a sign may differ


@each_form
def test_the_attack_s_direction(form, net, batch):
    """One short step in l2 shows the gradient's direction, image by image."""
    (x, other), twin = batch.views, copy.deepcopy(net).eval()
    start = RoCL(PGD(L2(0.5), steps=0), form=form).adversarial(net, batch.views, Key(3)).requires_grad_()
    ours = RoCL(PGD(L2(0.5), steps=1, rel_step_size=0.2), form=form).adversarial(net, batch.views, Key(3))
    grad = torch.autograd.grad(objective(twin(torch.stack([start, other]), "shared"), form), start)[0]
    step = 0.1 * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(ours, L2(0.5).project(start + step, x), atol=1e-5)


@each_form
def test_the_attack_leaves_gradients_modes_and_statistics(form, net, batch):
    net.head.eval()
    modes, state = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    one, same, other = (RoCL(form=form).adversarial(net, batch.views, Key(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@each_form
def test_a_step_teaches_every_parameter(form, net, batch, clock):
    Step(RoCL(form=form), net)(batch, clock, Key(0))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_defaults_are_the_paper_s():
    attack = PGD(Linf(8 / 255), steps=7, rel_step_size=0.007 / 0.0314, init="uniform", restarts=1)
    assert RoCL() == RoCL(attack, tau=0.5, weight=1 / 256, form="paper")
    assert (RoCL.routes, RoCL.views, RoCL.labels) == (("shared",), 2, "")


@pytest.mark.parametrize("tau", [0, -1, float("nan")])
def test_a_temperature_is_positive(tau):
    with pytest.raises(ValueError, match="tau is a number > 0"):
        RoCL(tau=tau)
