"""AIR in its three divergences: the paper's equation in loops, and the published code's call of kl_div."""

import copy
from math import log

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.losses.contrastive import nt_xent
from unshaken.methods.acl import ACL
from unshaken.methods.air import AIR

TAU = 0.5


def embeddings(images: int = 6, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Of the originals, the adversarial views and the clean views; a view resembles its original."""
    rng = Key("z").on("cpu")
    original = torch.randn(images, width, generator=rng)
    z = original + torch.randn(2, images, width, generator=rng)
    z_adv = z + 0.5 * torch.randn(2, images, width, generator=rng)
    return original.requires_grad_(), z_adv.requires_grad_(), z.requires_grad_()


def conditional(a: Tensor, b: Tensor, tau: float) -> list[Tensor]:
    """exp(sim(a_k, b_k)/τ) / Σ_m exp(sim(a_m, b_m)/τ), one number an image."""
    similar = [(r * s).sum() / (r.square().sum() * s.square().sum()).sqrt() for r, s in zip(a, b, strict=True)]
    total = sum((s / tau).exp() for s in similar)
    return [(s / tau).exp() / total for s in similar]


def divergence(p: list[Tensor], q: list[Tensor]) -> Tensor:
    """KL(p ‖ q; B) = Σ p log(p/q)."""
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


def defined(original: Tensor, x_adv: Tensor, x: Tensor, tau: float, normalized: bool = False) -> Tensor:
    """L_AIR of the paper, in float64: KL of the products p_u(y|x̃) p_u(x̃|x) of the two views."""
    original, x_adv, x = original.double(), x_adv.double(), x.double()
    products = []
    for u in range(2):
        to_original, to_view = conditional(original, x_adv[u], tau), conditional(x_adv[u], x[u], tau)
        product = [a * b for a, b in zip(to_original, to_view, strict=True)]
        products.append([p / sum(product) for p in product] if normalized else product)
    return divergence(*products)


def same(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Equal values and equal gradients."""
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4, abs=1e-6)
    pair = [torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=True) for value in (ours, theirs)]
    for a, b in zip(*pair, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()) + 1e-6)


@pytest.mark.parametrize("tau", [0.2, 0.5])
@pytest.mark.parametrize("name", ["kl", "normalized"])
def test_the_adversarial_term_is_the_equation_of_the_paper(name, tau):
    original, z_adv, z = embeddings()
    ours = AIR(ACL(tau=tau), divergence=name).adversarial(original, z_adv, z)
    same(ours, defined(original, z_adv, z, tau, name == "normalized"), original, z_adv, z)


def test_the_standard_term_is_the_adversarial_one_without_a_perturbation():
    original, _, z = embeddings()
    same(AIR().standard(original, z), defined(original, z, z, TAU), original, z)


@pytest.mark.parametrize(("name", "scale"), [("kl", 1 / 6), ("normalized", 1)])
def test_the_standard_term_in_closed_form(name, scale):
    """With x̃ = xᵘ the factor p(x̃|x) is uniform: KL(p_i(y|x) ‖ p_j(y|x)) / N, or without 1/N once scaled."""
    original, _, z = embeddings()
    p_i, p_j = (conditional(original.double(), z[u].double(), TAU) for u in range(2))
    same(AIR(divergence=name).standard(original, z), scale * divergence(p_i, p_j), original, z)


@pytest.mark.parametrize("name", ["kl", "normalized"])
def test_views_that_agree_cost_nothing(name):
    original, z_adv, z = (t.detach() for t in embeddings())
    method = AIR(divergence=name)
    alike = z[:1].expand(2, -1, -1)
    assert abs(method.standard(original, alike).item()) < 1e-7
    assert abs(method.adversarial(original, z_adv[:1].expand(2, -1, -1), alike).item()) < 1e-7


def test_a_scaled_divergence_is_not_negative():
    original, z_adv, z = (t.detach() for t in embeddings(64))
    assert AIR(divergence="normalized").adversarial(original, z_adv, z).item() > 0
    assert AIR(divergence="normalized").standard(original, z).item() > 0


def published(original: Tensor, z_adv: Tensor, z: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """SIR and AIR as AIR.py calls kl_div: probabilities where their logarithms belong, a target in log space."""
    zo, za, zc = (normalize(t, dim=-1) for t in (original, z_adv, z))
    p, log_q = ((zc[0] * zo).sum(-1) / tau).softmax(0), ((zc[1] * zo).sum(-1) / tau).log_softmax(0)
    sir = kl_div(p, log_q, log_target=True, reduction="sum")
    product_i, product_j = (
        ((za[u] * zc[u]).sum(-1) / tau).softmax(0) * ((za[u] * zo).sum(-1) / tau).softmax(0) for u in range(2)
    )
    return sir, kl_div(product_i, product_j.log(), log_target=True, reduction="sum")


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_released_terms_are_the_published_code_s(tau):
    original, z_adv, z = embeddings()
    sir, air = published(original, z_adv, z, tau)
    method = AIR(ACL(tau=tau), divergence="released")
    same(method.standard(original, z), sir, original, z)
    same(method.adversarial(original, z_adv, z), air, original, z_adv, z)


def test_the_released_terms_are_negative_and_of_known_size():
    original, z_adv, z = (t.detach() for t in embeddings(512, 128))
    method = AIR(divergence="released")
    assert method.standard(original, z).item() == pytest.approx(-log(512), abs=0.05)
    assert method.adversarial(original, z_adv, z).item() == pytest.approx(-2 * log(512) / 512, rel=0.05)


def pull(method: AIR, term: str) -> tuple[float, float]:
    """The norms of the gradients that reach view i and view j."""
    original, z_adv, z = embeddings(512, 128)
    value = method.standard(original, z) if term == "sir" else method.adversarial(original, z_adv, z)
    (grad,) = torch.autograd.grad(value, z)
    return grad[0].norm().item(), grad[1].norm().item()


@pytest.mark.parametrize("term", ["sir", "air"])
@pytest.mark.parametrize("name", ["kl", "normalized", "released"])
def test_only_the_released_terms_nearly_ignore_view_i(name, term):
    i, j = pull(AIR(divergence=name), term)
    ratio = i / j
    assert ratio < 0.05 if name == "released" else 0.3 < ratio < 3


def test_the_unscaled_product_has_a_hundred_times_smaller_gradient():
    assert pull(AIR(divergence="normalized"), "air")[1] > 100 * pull(AIR(), "air")[1]


@pytest.mark.parametrize("name", ["kl", "normalized", "released"])
def test_the_objective_and_its_forward_passes(name, net, batch, clock, calls):
    acl = ACL(PGD(Linf(0.1), steps=2), TAU, Constant(0.25))
    terms = AIR(acl, lambda1=0.7, lambda2=0.3, divergence=name).loss(net, batch, clock, Key(0))
    assert [(call.route, call.modes) for call in calls] == [
        ("adv", {False}),
        ("adv", {False}),
        ("adv", {True}),
        ("clean", {True}),
        ("clean", {True}),
    ]
    assert calls[3].x is batch.views
    assert calls[4].x is batch.image
    z_adv, z, original = (call.z for call in calls[2:])
    if name == "released":
        sir, air = published(original, z_adv, z, TAU)
    else:
        sir, air = (defined(original, v, z, TAU, name == "normalized") for v in (z, z_adv))
    assert terms["sir"].item() == pytest.approx(sir.item(), rel=1e-3)
    assert terms["air"].item() == pytest.approx(air.item(), rel=1e-3)
    expected = 1.25 * nt_xent(z_adv, TAU) + 0.75 * nt_xent(z, TAU) + 0.7 * sir + 0.3 * air
    same(terms["loss"], expected, z_adv, z, original)


def test_with_zero_weights_it_is_acl(net, batch, clock):
    twin = copy.deepcopy(net)
    ours, theirs = AIR(lambda1=0, lambda2=0).loss(net, batch, clock, Key(0)), ACL().loss(twin, batch, clock, Key(0))
    assert torch.equal(ours["loss"], theirs["loss"])


def test_the_defaults_are_the_paper_s():
    assert AIR() == AIR(ACL(), lambda1=0.5, lambda2=0.5, divergence="kl")
