"""NT-Xent and its kin: views of an image attract, all other images repel."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, log
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.types import Float

CACHED, AT_ONCE = 256, 2048
"""Images whose embeddings are compared at a time with as many others: on a CPU, 1 MB of similarities, so that what one
operation writes the next finds in the cache; elsewhere 64 MB, so that there is only one block as a rule."""


def nt_xent(z: Float[Tensor, "2 N D"], tau: float) -> Float[Tensor, ""]:
    """The mean over the 2N anchors of  −log exp(sim(z_kᵘ, z_kᵛ)/τ) / Σ_{z' ≠ z_kᵘ} exp(sim(z_kᵘ, z')/τ).

    sim is the cosine; the sum runs over the other 2N − 1 embeddings, the partner among them
    (Chen et al., ICML 2020, arXiv:2002.05709, eq. 1). With N = 1 there is nothing to contrast and the loss is 0.
    Memory grows as N, not as N². The gradient is in closed form; there is none of second order.
    """
    if z.ndim != 3 or len(z) != 2:
        raise ValueError(f"NT-Xent contrasts two views, shape (2, N, D), not {tuple(z.shape)}")
    return _NTXent.apply(normalize(z.float(), dim=-1), tau)


class _NTXent(torch.autograd.Function):
    """Of unit vectors u, b being the partner of a, and s_ac = ⟨u_a, u_c⟩/τ, c ≠ a:

        ℓ = mean_a (lse_a − s_ab),   lse_a = log Σ_c exp s_ac,
        ∂ℓ/∂u_a = (Σ_c (exp(s_ac − lse_a) + exp(s_ac − lse_c)) u_c − 2 u_b) / 2Nτ,

    both found in the forward pass, block by block of s; only blocks on and above the diagonal, for s is symmetric.
    """

    @staticmethod
    def forward(ctx: Any, u: Float[Tensor, "2 N D"], tau: float) -> Float[Tensor, ""]:
        parts = [part.flatten(0, 1) for part in u.split(CACHED if u.device.type == "cpu" else AT_ONCE, 1)]
        blocks = [*_blocks(parts, tau)] if len(parts) == 1 else None  # of several, each is made twice
        lse, positive = [part.new_full((len(part),), -torch.inf) for part in parts], []
        for i, j, s in blocks or _blocks(parts, tau):
            lse[i] = lse[i].logaddexp(s.logsumexp(1))
            if i == j:
                positive.append(s.diagonal(len(s) // 2).clone())
            else:
                lse[j] = lse[j].logaddexp(s.logsumexp(0))
        loss = torch.cat([both.view(2, -1) - s for both, s in zip(lse, positive, strict=True)], 1).mean()
        if not ctx.needs_input_grad[0]:
            return loss
        scale = 1 / (2 * u.shape[1] * tau)
        grads = [part.roll(len(part) // 2, 0).mul_(-2 * scale) for part in parts]
        for i, j, s in blocks or _blocks(parts, tau):
            weight = (s - lse[i][:, None]).exp_().add_((s - lse[j]).exp_())
            grads[i].addmm_(weight, parts[j], alpha=scale)
            if i != j:
                grads[j].addmm_(weight.T, parts[i], alpha=scale)
        ctx.save_for_backward(torch.cat([grad.unflatten(0, (2, -1)) for grad in grads], 1))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Float[Tensor, ""]) -> tuple[Float[Tensor, "2 N D"], None]:
        if torch.is_grad_enabled():  # once_differentiable would let a wrong second derivative pass
            raise RuntimeError("NT-Xent is differentiable once: take its gradient without create_graph")
        return grad_loss * ctx.saved_tensors[0], None


def _blocks(parts: list[Float[Tensor, "b D"]], tau: float) -> Iterator[tuple[int, int, Float[Tensor, "b c"]]]:
    """s of the parts i and j ≥ i, and −∞ of an embedding with itself."""
    for i, a in enumerate(parts):
        for j, b in enumerate(parts[i:], i):
            s = a.new_empty(len(a), len(b)).addmm_(a, b.T, beta=0, alpha=1 / tau)  # in place: float32 in any context
            yield i, j, s.fill_diagonal_(-torch.inf) if i == j else s


def info_nce(z: Float[Tensor, "V N D"], tau: float) -> Float[Tensor, ""]:
    """The mean over images of  −log Σ_v exp(sim(z_k⁰, z_kᵛ)/τ) / Σ_{z' ≠ z_k⁰} exp(sim(z_k⁰, z')/τ),   v = 1 … V − 1.

    View 0 is the anchor; its other views are positives within one logarithm, all views of other images are negatives
    (Kim et al., NeurIPS 2020, arXiv:2006.07589, eq. 3).
    """
    similarity = _similarity(z[:1], z, tau)[0]
    positive = similarity.diagonal(dim1=0, dim2=2)
    return (similarity.flatten(1).logsumexp(-1) - positive.logsumexp(0)).mean()


def pairwise_info_nce(
    z: Float[Tensor, "V N D"], tau: float, others: Float[Tensor, "V N D"] | None = None
) -> Float[Tensor, "V V N"]:
    """l[u, v, k] = −log exp(sim(z_kᵘ, z_kᵛ)/τ) / Σ_{z' ≠ z_kᵘ} exp(sim(z_kᵘ, z')/τ):  anchor u, positive v, image k.

    The sum runs over the other VN − 1 embeddings, all positives among them; l[u, u] = 0.
    others  what anchors are compared with: z itself, or z.detach() to let the gradient reach a pair by its anchor alone
    """
    similarity = _similarity(z, z if others is None else others, tau)
    return _without_itself(similarity.flatten(2).logsumexp(-1)[:, None] - similarity.diagonal(dim1=1, dim2=3))


def mean_over_pairs(pairwise_info_nce: Float[Tensor, "V V N"]) -> Float[Tensor, ""]:
    """The mean of l[u, v, k] over images and over u ≠ v."""
    views, _, images = pairwise_info_nce.shape
    return pairwise_info_nce.sum() / (views * (views - 1) * images)


def multi_view(z: Float[Tensor, "V N D"], tau: float) -> Float[Tensor, ""]:
    """The mean of  −log exp(sim(z_kᵘ, z_kᵛ)/τ) / Σ_{z' ≠ z_kᵘ} exp(sim(z_kᵘ, z')/τ)  over images and u ≠ v.

    SupCon (Khosla et al., NeurIPS 2020, arXiv:2004.11362, L_out) with each image a class of its own; of two views it is
    NT-Xent.
    """
    return mean_over_pairs(pairwise_info_nce(z, tau))


def hard_negative_pairs(
    z: Float[Tensor, "V N D"],
    tau: float,
    tau_plus: float,
    beta: float,
    others: Float[Tensor, "V N D"] | None = None,
    form: Literal["hcl", "advcl", "rocl"] = "hcl",
) -> Float[Tensor, "V V N"]:
    """l[u, v, k] = −log e(z_kᵘ, z_kᵛ) / (P + max(N_g, M exp(−1/τ))),   e(a, b) = exp(sim(a, b)/τ).

    P is the mean of e over the anchor's V − 1 positives; over its M = V(N − 1) negatives, those nearest weigh most:

        N_g = (Σ e^(1+β) / mean e^β − τ⁺ M P) / (1 − τ⁺),

    τ⁺ being the chance that a negative is of the anchor's class (HCL: Robinson et al., ICLR 2021, arXiv:2010.04592).
    The other forms are what A-InfoNCE's code computes (yqy2001/A-InfoNCE at b28763e). Both divide each e^(1+β) before
    the sum, and by the mean of its column's e^β instead of its row's, zeros for non-negatives included. "rocl"
    (Asym-RoCL/loss.py) is else the same; "advcl" (Asym-AdvCL/losses.py) takes the floor to be M, as if all negatives
    were orthogonal to the anchor and not opposite, and gives l[u, v] the denominator of v. (Both write their floors
    for τ = 0.5; here they follow τ.)
    """
    views, images = z.shape[:2]
    if images < 2:
        raise ValueError("hard negatives are other images: a batch has 2 or more")
    similarity = _similarity(z, z if others is None else others, tau)
    same = torch.eye(images, dtype=torch.bool, device=z.device)[:, None]
    count = views * (images - 1)
    averaged = count if form == "hcl" else views * images
    log_mean = (beta * similarity).masked_fill(same, -torch.inf).flatten(2).logsumexp(-1) - log(averaged)
    divisor = log_mean[..., None, None] if form == "hcl" else log_mean
    log_negative = ((1 + beta) * similarity - divisor).masked_fill(same, -torch.inf).flatten(2).logsumexp(-1)
    positive = similarity.diagonal(dim1=1, dim2=3)
    log_positive = positive.logsumexp(1) - log(views - 1)
    top = torch.maximum(log_negative, log_positive).detach()
    P, floor = (log_positive - top).exp(), (log(count) - (0 if form == "advcl" else 1 / tau) - top).exp()
    N_g = ((log_negative - top).exp() - tau_plus * count * P) / (1 - tau_plus)
    log_total = top + (P + torch.maximum(N_g, floor)).log()
    return _without_itself((log_total[None] if form == "advcl" else log_total[:, None]) - positive)


def _similarity(anchor: Float[Tensor, "U N D"], others: Float[Tensor, "V N D"], tau: float) -> Float[Tensor, "U N V N"]:
    """sim(a_kᵘ, b_mᵛ)/τ, and −∞ of an embedding with itself: where u = v and k = m."""
    if others.ndim != 3 or len(others) < 2:
        raise ValueError(f"a contrast is of two views or more, shape (V, N, D), not {tuple(others.shape)}")
    a, b = (normalize(z.float(), dim=-1) for z in (anchor, others))
    similarity = torch.einsum("und,vmd->unvm", a, b) / tau
    itself = torch.eye(len(a) * a.shape[1], len(b) * b.shape[1], dtype=torch.bool, device=a.device)
    return similarity.masked_fill(itself.view_as(similarity), -torch.inf)


def _without_itself(pairwise_info_nce: Float[Tensor, "V V N"]) -> Float[Tensor, "V V N"]:
    """0 where a view would be its own partner."""
    return pairwise_info_nce.masked_fill(
        torch.eye(len(pairwise_info_nce), dtype=torch.bool, device=pairwise_info_nce.device)[..., None], 0
    )


def check_temperature(tau: float) -> None:
    """ValueError unless τ is positive: at 0 the loss is not defined, and below it partners would repel."""
    if not (tau > 0 and isfinite(tau)):
        raise ValueError(f"a temperature τ is a positive number, such as 0.5, not {tau}")
