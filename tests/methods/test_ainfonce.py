"""A-InfoNCE on AdvCL and RoCL: inferior positives and hard negatives in loops, and the released code's values."""

import copy
from dataclasses import replace
from math import exp

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch
from unshaken.losses.contrastive import mean_over_pairs, multi_view, pairwise_hard_negative
from unshaken.methods.advcl import AdvCL
from unshaken.methods.ainfonce import HN, IP, Adaptive, AsymAdvCL, AsymRoCL, with_ip
from unshaken.methods.base import Step
from unshaken.methods.released.ainfonce import overwrite
from unshaken.methods.rocl import RoCL
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection, ProjectionWithClassifiers
from unshaken.nets.network import MethodState, Network, evaluating, seeded

N = 4
CLASSES = (2, 3)
SWITCHES = [(None, None), (IP(0.2, 1.2), None), (None, HN(0.12)), (IP(0.2, 1.2), HN(0.12))]
each_switch = pytest.mark.parametrize(("ip", "hn"), SWITCHES, ids=["neither", "ip", "hn", "both"])
each_form = pytest.mark.parametrize("form", ["paper", "released"])
each_tree = pytest.mark.parametrize("tree", ["advcl", "rocl"])


@pytest.fixture
def batch() -> Batch:
    rng = Key("batch").on("cpu")
    views, image = torch.rand(3, N, 1, 8, 8, generator=rng), torch.rand(N, 1, 8, 8, generator=rng)
    label = torch.stack([torch.randint(count, (N,), generator=rng) for count in CLASSES], dim=1)
    return Batch(views, image, label, torch.arange(N))


@pytest.fixture
def net(batch: Batch) -> Network:
    """A network for both trees: all routes, and statistics of the batch."""

    def build() -> Network:
        encoder = Backbone("resnet-small", 8, 1, (0.5,), (0.25,)).build()
        return Network(
            encoder, ProjectionWithClassifiers(Projection(2, out=12, norm="hidden")).build(encoder.features, CLASSES)
        )

    net = with_routes(seeded(build, Key(0)), ("clean", "adv", "adv_ce", "shared")).train()
    for route, power in (("clean", 1), ("adv", 2), ("adv_ce", 0.5), ("shared", 1)):
        for _ in range(10):
            net(batch.views**power, route)
    net.memory = MethodState(AsymAdvCL.memory)
    return net


def two(batch: Batch) -> Batch:
    return replace(batch, views=batch.views[:2], label=None)


def recorded(views: int) -> Tensor:
    z = (torch.arange(views * 5 * 6, dtype=torch.float64) ** 2 * 0.37).sin().view(views, 5, 6)
    return z.requires_grad_()


def random(views: int) -> Tensor:
    return torch.randn(views, N, 5, generator=Key("z").on("cpu")).requires_grad_()


def single(z: Tensor, anchor: tuple, positive: tuple, hn: HN | None, sg: bool, tau: float = 0.5) -> Tensor:
    """l of one anchor and one positive, in float64; sg: no gradient through anything but the anchor."""
    row = normalize(z[anchor].double(), dim=0)
    others = {(v, m): normalize(z[v, m].double(), dim=0) for v in range(len(z)) for m in range(z.shape[1])}
    e = {at: (row @ (b.detach() if sg else b) / tau).exp() for at, b in others.items() if at != anchor}
    if hn is None:
        return -(e[positive] / sum(e.values())).log()
    near = [value for (_, m), value in e.items() if m == anchor[1]]
    far = [value for (_, m), value in e.items() if m != anchor[1]]
    P, M = sum(near) / len(near), len(far)
    mean = sum(value**hn.beta for value in far) / M
    hard = sum(value**hn.beta / mean * value for value in far)
    N_g = ((hard - hn.tau_plus * M * P) / (1 - hn.tau_plus)).clamp(min=M * exp(-1 / tau))
    return -(e[positive] / (P + N_g)).log()


def defined(z: Tensor, a: int, ip: IP | None, hn: HN | None, alpha: float = 0.2, tau: float = 0.5) -> Tensor:
    """Σ over images and u ≠ v, where a pair with view a counts as w m[a, c] in both its places; over N."""
    total, views = 0.0, range(len(z))
    for k in range(z.shape[1]):
        for u, v in ((u, v) for u in views for v in views if u != v):
            if ip is None or a not in (u, v):
                total = total + single(z, (u, k), (v, k), hn, False, tau)
            else:
                c = v if u == a else u
                clean = single(z, (c, k), (a, k), hn, True, tau)
                adv = single(z, (a, k), (c, k), hn, True, tau)
                total = total + ip.adv_weight * (alpha * clean + (1 - alpha) * adv)
    return total / z.shape[1]


def same(ours: Tensor, theirs: Tensor, z: Tensor) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def contrast(method: AsymAdvCL, z: Tensor) -> Tensor:
    """As in the update."""
    return method.contrast(z, torch.tensor(method.ip.alpha if method.ip else 0.0))


@each_switch
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_advcl_s_contrast(tau, ip, hn):
    z = random(4)
    same(contrast(AsymAdvCL(AdvCL(tau=tau), ip, hn), z), defined(z, 0, ip, hn, tau=tau) / 12, z)


@each_switch
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_rocl_s_contrast(tau, ip, hn):
    z = random(3)
    same(AsymRoCL(RoCL(tau=tau), ip, hn).contrast(z), defined(z, 2, ip, hn, tau=tau) / 3, z)


def test_alpha_weighs_the_gradients_of_the_two_sides_and_at_one_half_no_value():
    """Of the pairs with the adversarial view, clean views get α and the adversarial one 1 − α."""
    z = random(4)
    plain = AsymAdvCL(ip=None, hn=None)

    def value_and_pull(alpha: float) -> tuple[float, list[float]]:
        loss = contrast(AsymAdvCL(ip=IP(alpha, 1e4), hn=None), z) / 1e4  # clean pairs do not count then
        (grad,) = torch.autograd.grad(loss, z)
        return loss.item(), grad.flatten(1).norm(dim=1).tolist()

    half, pull = value_and_pull(0.5)
    value, pull_0, (_, pull_1) = value_and_pull(0.2)[0], value_and_pull(0.0)[1], value_and_pull(1.0)
    l_uv = plain.pairs(z).mean(2)
    assert half == pytest.approx(((l_uv[0].sum() + l_uv[:, 0].sum()) / 12).item(), rel=1e-3)
    assert value == pytest.approx((2 * (0.8 * l_uv[0].sum() + 0.2 * l_uv[:, 0].sum()) / 12).item(), rel=1e-3)
    assert all(p < 0.01 for p in pull_0[1:])
    assert pull_0[0] == pytest.approx(2 * pull[0], rel=1e-2)
    assert pull_1[0] < 0.01
    assert pull_1[1:] == pytest.approx([2 * p for p in pull[1:]], rel=1e-2)


def test_replacing_losses_of_pairs_does_not_change_the_input():
    l_uv = torch.rand(4, 4, 2)
    before = l_uv.clone()
    assert not torch.equal(with_ip(l_uv, 2 * l_uv, 0, 0.3, 1.0), before)
    assert not torch.equal(overwrite(l_uv, 1.0), before)
    assert torch.equal(l_uv, before)


def test_without_ip_and_hn_it_is_advcl(net, batch, clock):
    twin, method = copy.deepcopy(net), AsymAdvCL(ip=None, hn=None)
    ours, theirs = method.loss(net, batch, clock, Key(0)), AdvCL().loss(twin, batch, clock, Key(0))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].item() == pytest.approx(theirs[name].item(), rel=1e-6) for name in ours)


PUBLISHED_ADVCL = {
    "neither": (22.610253, [0.983418, 0.824845, 0.967981, 0.876844]),
    "ip": (24.873288, [0.900827, 0.655694, 0.682421, 0.578557]),
    "hn": (26.652154, [1.308749, 1.37346, 1.45795, 1.41275]),
    "both": (28.963495, [1.270021, 0.977449, 1.061373, 1.042068]),
    "attack": (26.005821, [1.307564, 0.938795, 1.125611, 1.034166]),
    "hard attack": (30.788295, [1.685621, 1.612281, 1.700457, 1.630744]),
}
"""Asym-AdvCL/losses.py at b28763e on `recorded`, with α 0.2, w 1.2, τ⁺ 0.12: values, gradients' norms by view."""

PUBLISHED_ROCL = {
    "neither": (5.478081, [0.206582, 0.249685, 0.266845]),
    "ip": (3.898375, [0.175973, 0.178485, 0.256171]),
    "hn": (6.409967, [0.38973, 0.310655, 0.333917]),
    "both": (4.593301, [0.274148, 0.201802, 0.337279]),
}
"""Asym-RoCL/loss.py, likewise."""


def as_published(loss: Tensor, z: Tensor, value: float, norms: list[float]) -> None:
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert grad.flatten(1).norm(dim=1).tolist() == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize(("name", "switches"), list(zip(PUBLISHED_ROCL, SWITCHES, strict=True)))
def test_the_released_contrasts_are_the_published_code_s(name, switches):
    z, method = recorded(4), AsymAdvCL(AdvCL(form="released"), *switches)
    as_published(0.5 / 0.07 * contrast(method, z), z, *PUBLISHED_ADVCL[name])
    z = recorded(3)
    as_published(AsymRoCL(RoCL(form="released"), *switches).contrast(z), z, *PUBLISHED_ROCL[name])


@pytest.mark.parametrize(("name", "hard"), [("attack", False), ("hard attack", True)])
def test_the_released_attack_s_loss_is_the_published_code_s(name, hard):
    z, method = recorded(4), AsymAdvCL(AdvCL(form="released"), *SWITCHES[3], hard_attack=hard)
    as_published(0.5 / 0.07 * method.attack_contrast(z), z, *PUBLISHED_ADVCL[name])


@pytest.mark.parametrize("hard", [False, True])
def test_the_attack_raises_the_loss_without_ip(hard):
    z, hn = random(4), HN(0.3, 0.5)
    method = AsymAdvCL(ip=IP(0.2, 3.0), hn=hn, hard_attack=hard)
    same(method.attack_contrast(z), defined(z, 0, None, hn if hard else None) / 12, z)


def embedded(calls) -> Tensor:
    """x_cl's embeddings and the clean views' of the update, which is in train mode."""
    calls = [call for call in calls if call.modes == {True}]
    cl, clean = calls[0].z, [call.z for call in calls if call.route == "clean"]
    return torch.cat([cl[None], clean[0] if clean[0].ndim == 3 else torch.stack(clean[-3:])])[..., :12]


@each_switch
def test_advcl_s_objective(ip, hn, net, batch, clock, calls):
    method = AsymAdvCL(AdvCL(ce_weight=0.7, radius=2.0), ip, hn)
    terms = method.loss(net, batch, clock, Key(0))
    expected = defined(embedded(calls), 0, ip, hn).item() / 12
    assert terms["contrast"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(expected + 0.7 * terms["ce"].item(), rel=1e-4)
    assert ("alpha" in terms) == (ip is not None)
    update = [("adv", {True}), ("adv_ce", {True}), ("clean", {True})]
    attack = [("clean", {False}), *[("adv", {False}), ("adv_ce", {False})] * 5]
    assert [(call.route, call.modes) for call in calls] == attack + update


@each_switch
def test_rocl_s_objective(ip, hn, net, batch, clock):
    net = Network(net.encoder, net.head.projection)
    recorded = []
    net.register_forward_hook(lambda used, given, z: recorded.append(z))
    method = AsymRoCL(RoCL(weight=0.7), ip, hn)
    terms = method.loss(net, two(batch), clock, Key(0))
    expected = defined(recorded[-1], 2, ip, hn).item() / 3
    assert terms["contrast"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["adv"].item() == pytest.approx(method.rocl.apart(recorded[-1][[2, 1]]).item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(expected + 0.7 * terms["adv"].item(), rel=1e-4)


@pytest.mark.parametrize("hard", [False, True])
def test_the_views_are_those_of_the_attack_on_that_loss(hard, net, batch, clock, calls):
    method, twin = AsymAdvCL(AdvCL(PGD(Linf(0.1), steps=3)), hn=HN(0.3), hard_attack=hard), copy.deepcopy(net)
    method.loss(net, batch, clock, Key(0))
    raised = (
        (lambda z: mean_over_pairs(pairwise_hard_negative(z, 0.5, 0.3, 1.0)))
        if hard
        else (lambda z: multi_view(z, 0.5))
    )
    x_cl, x_ce = method.advcl.adversarial(twin, batch, method.advcl.clean(batch), raised, Key(0))
    update = [call.x for call in calls if call.modes == {True}]
    assert torch.equal(update[0], x_cl)
    assert torch.equal(update[1], x_ce)


def at(epoch: int) -> Clock:
    return Clock(10 * epoch, epoch, epoch + 0.1, 100)


@each_form
def test_adaptive_alpha_measures_first_and_then_follows_the_distance(form, net, batch, monkeypatch):
    """α of `ip` far away, 1/2 near by, and on the line between d_avg and d_min between them."""
    method = AsymAdvCL(AdvCL(form=form), IP(0.2), adaptive=Adaptive(epochs=2, d_min=0.4))
    x, distances = batch.views[2], [1.0, 2.0, 0.6]
    monkeypatch.setattr(AsymAdvCL, "distances", lambda self, h, a, b: torch.full((len(a),), distances.pop(0)))
    for images, epoch in ((4, 0), (4, 1), (2, 1)):
        assert method.alpha(net, x[:images], x[:images], at(epoch)).item() == pytest.approx(0.2)
    d_avg = (4 * 1 + 4 * 2 + 2 * 0.6) / 10
    assert net.memory.images.item() == 10
    assert net.memory.distances.item() == pytest.approx(10 * d_avg)
    halfway = (d_avg + 0.4) / 2
    quarter = 0.4 + 0.25 * (d_avg - 0.4)
    for d, alpha in ((5.0, 0.2), (d_avg, 0.2), (halfway, 0.35), (quarter, 0.425), (0.4, 0.5), (0.1, 0.5)):
        distances.append(d)
        assert method.alpha(net, x, x, at(2)).item() == pytest.approx(alpha, abs=1e-5)
    assert net.memory.images.item() == 10


@pytest.mark.parametrize(
    ("d", "alpha", "released"),
    [(0.1, 0.5, 0.5), (0.3, 0.5, 0.5), (0.35, 0.5, 0.2), (0.41, 0.2, 0.2), (0.6, 0.2, 0.2)],
)
@each_form
def test_adaptive_alpha_where_all_distances_were_below_d_min(form, d, alpha, released, net, batch, monkeypatch):
    """d_avg = 0.3 < d_min = 0.4. The authors' code asks first whether d > d_avg, and then keeps α
    (Asym-AdvCL/pretraining_advCL.py at b28763e)."""
    net.memory.distances.fill_(3.0)
    net.memory.images.fill_(10.0)
    alpha = released if form == "released" else alpha
    monkeypatch.setattr(AsymAdvCL, "distances", lambda self, h, a, b: torch.full((len(a),), d))
    method = AsymAdvCL(AdvCL(form=form), ip=IP(0.2), adaptive=Adaptive(1, d_min=0.4))
    assert method.alpha(net, batch.views[2], batch.views[2], at(1)).item() == pytest.approx(alpha)


@each_form
def test_the_distance_is_of_features_through_the_clean_route(form, net, batch):
    x, x_cl, twin = batch.views[2], batch.views[1], copy.deepcopy(net)
    before = int(net.encoder.backbone.bn1.routes["clean"].num_batches_tracked)
    d = AsymAdvCL(AdvCL(form=form)).distances(net, x, x_cl).mean()
    twin.train(form == "released")
    f, f_cl = (twin.features(images, "clean") for images in (x, x_cl))
    expected = sum((f[k] - f_cl[k]).square().sum().sqrt() for k in range(N)) / N
    assert d.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not d.requires_grad
    updates = int(net.encoder.backbone.bn1.routes["clean"].num_batches_tracked) - before
    assert updates == (2 if form == "released" else 0)
    assert {m.training for m in net.modules()} == {True}


def test_the_update_uses_the_adaptive_alpha_and_the_attacked_view(net, batch, calls):
    step = Step(AsymAdvCL(AdvCL(radius=2.0), IP(0.2), None, Adaptive(1, d_min=0.0)), net)
    first = step(batch, at(0), Key(0))
    x_cl = [call.x for call in calls if call.modes == {True}][0]
    memory, again = net.memory, copy.deepcopy(net)
    assert first["alpha"].item() == pytest.approx(0.2)
    assert memory.images.item() == N
    with evaluating(again), torch.no_grad():
        d = (again.features(batch.views[2], "clean") - again.features(x_cl, "clean")).norm(dim=-1).mean()
    assert memory.distances.item() == pytest.approx(N * d.item(), rel=1e-4)
    memory.distances.mul_(10)  # as if views had been ten times as far away
    calls.clear()
    terms = step(batch, at(1), Key(1))
    assert 0.4 < terms["alpha"].item() < 0.5
    expected = defined(embedded(calls), 0, IP(), None, alpha=terms["alpha"].item()).item() / 12
    assert terms["contrast"].item() == pytest.approx(expected, rel=1e-4)


def test_the_distances_are_in_the_saved_state():
    assert set(MethodState(AsymAdvCL.memory).state_dict()) == {"distances", "images"}


@each_switch
@each_form
@each_tree
def test_a_step_teaches_every_parameter_of_its_routes(tree, form, ip, hn, net, batch, clock):
    method = AsymAdvCL(AdvCL(form=form), ip, hn)
    if tree == "rocl":
        net, batch = Network(net.encoder, net.head.projection), two(batch)
        method = AsymRoCL(RoCL(form=form), ip, hn)
    Step(method, net)(batch, clock, Key(0))["loss"].backward()
    for name, p in net.named_parameters():
        foreign = ".routes." in name and not any(f".routes.{route}." in name for route in method.routes)
        assert (p.grad is None) == foreign, name
        assert foreign or p.grad.isfinite().all()


def test_the_defaults_and_what_they_hold():
    assert AsymAdvCL() == AsymAdvCL(AdvCL(), IP(0.2, 1.0), HN(0.1, 1.0), None, hard_attack=False)
    assert AsymRoCL() == AsymRoCL(RoCL(), IP(0.2, 1.0), HN(0.12, 1.0))
    assert Adaptive() == Adaptive(30, 0.4)
    for ours, held in ((AsymAdvCL, AdvCL), (AsymRoCL, RoCL)):
        assert (ours.routes, ours.views, ours.labels) == (held.routes, held.views, held.labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IP(1.1), "in \\[0, 1\\]"),
        (lambda: IP(-0.1), "in \\[0, 1\\]"),
        (lambda: HN(tau_plus=1.0), "tau_plus is a number in"),
        (lambda: HN(tau_plus=-0.1), "tau_plus is a number in"),
        (lambda: HN(beta=-1.0), "beta is a number ≥ 0"),
        (lambda: Adaptive(epochs=0), "epochs is a whole number ≥ 1"),
        (lambda: AsymAdvCL(ip=None, adaptive=Adaptive()), "ip is None"),
    ],
)
def test_invalid_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
