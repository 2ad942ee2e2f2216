"""AdvCL: the four-view contrast and the pseudo-labels in loops, and what the released code does differently."""

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
from unshaken.methods.advcl import AdvCL
from unshaken.methods.base import Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection, ProjectionWithClassifiers
from unshaken.nets.network import Network, seeded
from unshaken.transforms.high_pass import high_pass

N = 5
CLASSES = (2, 3, 7)
ROUTES = ("clean", "adv", "adv_ce")
each_form = pytest.mark.parametrize("form", ["paper", "released"])


@pytest.fixture
def batch() -> Batch:
    rng = Key("batch").on("cpu")
    views, image = torch.rand(3, N, 1, 8, 8, generator=rng), torch.rand(N, 1, 8, 8, generator=rng)
    label = torch.stack([torch.randint(count, (N,), generator=rng) for count in CLASSES], dim=1)
    return Batch(views, image, label, torch.arange(N))


@pytest.fixture
def net(batch: Batch) -> Network:
    """Three routes that differ, a forked head, and running statistics of the batch."""

    def build() -> Network:
        encoder = Backbone("resnet-small", 8, 1, (0.5,), (0.25,)).build()
        return Network(
            encoder, ProjectionWithClassifiers(Projection(2, out=12, norm="hidden")).build(encoder.features, CLASSES)
        )

    net, rng = with_routes(seeded(build, Key(0)), ROUTES).train(), Key("scale").on("cpu")
    for route, x in zip(ROUTES, (batch.views, batch.views.square(), batch.views.sqrt()), strict=True):
        for _ in range(10):
            net(x, route)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".routes." in name:
                p.add_(torch.empty_like(p).uniform_(-0.3, 0.3, generator=rng))
    return net


def contrast(z: Tensor, tau: float) -> float:
    """Mean over the 3 positives of each anchor, then over all 4N anchors; one term at a time, in float64."""
    rows = normalize(z.detach().double(), dim=-1)
    names, total = [(u, k) for u in range(4) for k in range(z.shape[1])], 0.0
    for u, k in names:
        e = {at: exp(float(rows[u, k] @ rows[at]) / tau) for at in names if at != (u, k)}
        total -= sum(log(e[v, k] / sum(e.values())) for v in range(4) if v != u) / 3
    return total / len(names)


def cross_entropy(logits: Tensor, label: Tensor) -> float:
    """Mean over images, then over clusterings: columns of the logits, one block after the other."""
    total, begin = 0.0, 0
    for column, count in enumerate(CLASSES):
        for row, right in zip(logits[:, begin : begin + count].tolist(), label[:, column].tolist(), strict=True):
            total -= log(exp(row[right]) / sum(exp(value) for value in row)) / len(label)
        begin += count
    return total / len(CLASSES)


def seen(calls) -> tuple[Tensor, Tensor]:
    """The update's embeddings (4 N D), x_cl's first, and the logits of x_ce."""
    clean = [call.z if call.z.ndim == 3 else call.z[None] for call in calls if call.modes == {True}][2:]
    cl, ce = [call.z for call in calls if call.modes == {True}][:2]
    return torch.cat([cl[None], *clean])[..., :12], ce[:, 12:]


@pytest.mark.parametrize("ce_weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_loss_is_the_equation_of_the_paper(tau, ce_weight, net, batch, clock, calls):
    terms = AdvCL(tau=tau, ce_weight=ce_weight).loss(net, batch, clock, Key(0))
    z, logits = seen(calls)
    l_cl, l_ce = contrast(z, tau), cross_entropy(logits, batch.label)
    assert z.shape == (4, N, 12)
    assert terms["contrast"].item() == pytest.approx(l_cl, rel=1e-5)
    assert terms["ce"].item() == pytest.approx(l_ce, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(l_cl + ce_weight * l_ce, rel=1e-5)


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_released_objective(tau, net, batch, clock, calls):
    """SupCon's reference code times τ/0.07, which is 7.142857 at τ = 0.5."""
    terms = AdvCL(PGD(steps=0), tau=tau, form="released").loss(net, batch, clock, Key(0))
    z, logits = seen(calls)
    l_cl, l_ce = contrast(z, tau), cross_entropy(logits, batch.label)
    assert terms["loss"].item() == pytest.approx({0.2: 2.857143, 0.5: 7.142857}[tau] * l_cl + 0.2 * l_ce, rel=1e-5)


def test_the_contrast_is_the_published_code_s():
    """The value of LijieFan/AdvCL, losses.py at 24cb7a6, on these embeddings; and the gradient's norms by view."""
    z = (torch.arange(4 * 5 * 6, dtype=torch.float64) ** 2 * 0.37).sin().view(4, 5, 6).requires_grad_()
    method = AdvCL(form="released")
    loss = method.total(method.contrast(z), torch.zeros(()))["loss"]
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(22.903597, rel=1e-5)
    assert grad.flatten(1).norm(dim=1).tolist() == pytest.approx([0.983783, 0.876525, 0.935372, 0.854258], rel=1e-4)


def test_the_attack_sees_eval_mode_and_clean_views_once_and_the_update_is_adv_first(net, batch, clock, calls):
    AdvCL(PGD(steps=3), radius=2.0).loss(net, batch, clock, Key(0))
    update = [("adv", {True}), ("adv_ce", {True}), ("clean", {True})]
    attack = [("clean", {False}), *[("adv", {False}), ("adv_ce", {False})] * 3]
    assert [(call.route, call.modes) for call in calls] == attack + update
    expected = torch.stack([*batch.views[:2], high_pass(batch.views[2], 2.0)])
    for call in (calls[0], calls[-1]):
        assert torch.equal(call.x, expected)
    x_cl, x_ce = calls[-3].x, calls[-2].x
    assert not any(x.requires_grad for x in (x_cl, x_ce))
    assert not torch.equal(x_cl, x_ce)


def test_the_released_attack_is_in_train_mode_and_sees_each_clean_view_by_itself(net, batch, clock, calls):
    AdvCL(PGD(steps=3), radius=2.0, form="released").loss(net, batch, clock, Key(0))
    assert [call.route for call in calls] == ["adv", "adv_ce", "clean", "clean", "clean"] * 4
    assert {mode for call in calls for mode in call.modes} == {True}
    for k, x in enumerate((batch.views[0], batch.views[1], high_pass(batch.views[2], 2.0))):
        assert all(torch.equal(call.x, x) for call in calls[2 + k :: 5])
    assert not any(call.z.requires_grad for call in calls[:-5] if call.route == "clean")
    assert all(call.z.requires_grad for call in calls[-5:])


@pytest.mark.parametrize(("form", "updates"), [("paper", (1, 1, 1)), ("released", (18, 6, 6))])
def test_the_statistics_are_updated_by_the_attack_in_the_released_form_alone(form, updates, net, batch, clock):
    norms = [net.encoder.backbone.bn1.routes[route] for route in ROUTES]
    before = [int(norm.num_batches_tracked) for norm in norms]
    AdvCL(form=form).loss(net, batch, clock, Key(0))
    assert tuple(int(norm.num_batches_tracked) - b for norm, b in zip(norms, before, strict=True)) == updates


def attacked(net: Network, batch: Batch, method: AdvCL, seed: int = 0) -> Tensor:
    return method.adversarial(net, batch, method.clean(batch), method.contrast, Key(seed))


def test_the_attack_leaves_gradients_modes_and_statistics(net, batch):
    net.head.eval()
    modes, state = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    attacked(net, batch, AdvCL())
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@each_form
def test_the_attack_depends_on_the_key_and_its_starts_differ(form, net, batch):
    one, same, other = (attacked(copy.deepcopy(net), batch, AdvCL(form=form), seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    x_cl, x_ce = attacked(net, batch, AdvCL(PGD(steps=0)))
    assert not torch.equal(x_cl, x_ce)


def objective(net: Network, x_adv: Tensor, batch: Batch, tau: float = 0.5, form: str = "paper") -> Tensor:
    """l_CL + 0.2 l_CE of images that move, in torch, for its gradient; in the mode in which the network is."""
    clean = torch.stack([*batch.views[:2], high_pass(batch.views[2], 8.0)])
    z = [net(x_adv[0], "adv"), *([net(x, "clean") for x in clean] if form == "released" else net(clean, "clean"))]
    rows = normalize(torch.cat(z)[:, :12].double(), dim=-1)
    e = (rows @ rows.T / tau).exp()
    total = sum(
        -(e[u * N + k, v * N + k] / (e[u * N + k].sum() - e[u * N + k, u * N + k])).log()
        for u in range(4)
        for v in range(4)
        for k in range(N)
        if u != v
    )
    logits = net(x_adv[1], "adv_ce")[:, 12:].split(CLASSES, dim=1)
    ce = sum(torch.nn.functional.cross_entropy(y, batch.label[:, c]) for c, y in enumerate(logits))
    return total / (12 * N) + 0.2 * ce / len(CLASSES)


@each_form
@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(0.5)], ids=str)
def test_the_attack_raises_both_losses_within_the_ball(ball, form, net, batch):
    x = torch.stack([batch.views[2]] * 2)
    x_adv = attacked(net, batch, AdvCL(PGD(ball), form=form))
    start = attacked(net, batch, AdvCL(PGD(ball, steps=0), form=form))
    assert x_adv.shape == x.shape
    assert ball.distance(x_adv, x).max() <= ball.eps * (1 + 1e-5)
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    net.train(form == "released")
    for moved in (0, 1):
        one = start.clone()
        one[moved] = x_adv[moved]
        assert objective(net, one, batch, form=form) > objective(net, start, batch, form=form)


@each_form
def test_the_attack_s_steps(form, net, batch):
    """5 steps of 2/255 within 8/255 along the sign, from two uniform starts around the weak view."""
    x, eps, twin = torch.stack([batch.views[2]] * 2), 8 / 255, copy.deepcopy(net).train(form == "released")
    x_adv = Linf(eps).sample(x, (Key(3) / "attack").on("cpu"))
    for _ in range(5):
        x_adv.requires_grad_()
        step = 2 / 255 * torch.autograd.grad(objective(twin, x_adv, batch, form=form), x_adv)[0].sign()
        x_adv = (x_adv.detach() + step).clamp(x - eps, x + eps).clamp(0, 1)
    ours = attacked(net, batch, AdvCL(form=form), 3)
    assert ((ours - x_adv).abs() < 1e-5).float().mean() > 0.95  # a gradient of almost 0 may have either sign


@each_form
@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_attack_s_direction(tau, form, net, batch):
    """One short step in l2 shows the gradient's direction, image by image, of both."""
    x, twin = torch.stack([batch.views[2]] * 2), copy.deepcopy(net).train(form == "released")
    start = attacked(net, batch, AdvCL(PGD(L2(0.5), steps=0))).requires_grad_()
    ours = attacked(net, batch, AdvCL(PGD(L2(0.5), steps=1, rel_step_size=0.2), tau, form=form))
    grad = torch.autograd.grad(objective(twin, start, batch, tau, form), start)[0]
    step = 0.1 * grad / grad.flatten(2).norm(dim=2)[..., None, None, None]
    assert torch.allclose(ours, L2(0.5).project(start + step, x), atol=1e-4)


@each_form
def test_a_step_teaches_every_parameter(form, net, batch, clock):
    Step(AdvCL(form=form), net)(batch, clock, Key(0))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_gradient_passes_through_all_four_views(net, batch, clock, calls):
    terms = AdvCL().loss(net, batch, clock, Key(0))
    grads = torch.autograd.grad(terms["contrast"], [calls[-3].z, calls[-1].z])
    assert all(g.flatten(-2).abs().sum(-1).min() > 0 for g in grads)


def test_any_number_of_clusterings_will_do_but_labels_must_fit(net, batch, clock):
    fewer = Batch(batch.views, batch.image, batch.label[:, :2], batch.index)
    with pytest.raises(ValueError, match="shorter"):
        AdvCL().loss(net, fewer, clock, Key(0))


def test_the_defaults_are_the_paper_s():
    attack = PGD(Linf(8 / 255), steps=5, rel_step_size=1 / 4, init="uniform", restarts=1)
    assert AdvCL() == AdvCL(attack, tau=0.5, ce_weight=0.2, radius=8.0, form="paper")
    assert (AdvCL.routes, AdvCL.views, AdvCL.labels) == (ROUTES, 3, "clusters")


@pytest.mark.parametrize("tau", [0, -1, float("nan")])
def test_a_temperature_is_positive(tau):
    with pytest.raises(ValueError, match="tau is a number > 0"):
        AdvCL(tau=tau)
