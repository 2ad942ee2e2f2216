"""Contrastive losses: views of one image attract each other, all other images repel."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.distributed import processes
from unshaken.base.shared_batch import Rows, averages_gradients, shared_rows
from unshaken.base.types import Bool, Float

CPU_BLOCK, GPU_BLOCK = 256, 2048
"""Images along one side of a block of the similarity matrix. On a CPU a block of both views takes 1 MB and stays in the
cache from one operation to the next. On a GPU it takes 64 MB: most batches fit in one block."""
SHARED_FROM = 4096
"""Images of a batch from which processes that share it compute own rows of the similarity matrix instead of all."""


def nt_xent(z: Float[Tensor, "2 N D"], tau: float) -> Float[Tensor, ""]:
    """Return the mean over the 2N anchors of  −log exp(sim(z_kᵘ, z_kᵛ)/τ) / Σ_{z' ≠ z_kᵘ} exp(sim(z_kᵘ, z')/τ).

    k is an image, u ≠ v are its views, and sim is the cosine similarity. The sum runs over the other 2N − 1
    embeddings, which include the positive (Chen et al., ICML 2020, arXiv:2002.05709, eq. 1). With N = 1 there is
    nothing to contrast, and the loss is 0. Beyond one block, memory grows as N, not as N². The gradient is in closed
    form, and cannot be differentiated again (RuntimeError). ValueError unless there are two views.
    """
    if z.ndim != 3 or len(z) != 2:
        raise ValueError(f"NT-Xent contrasts two views, shape (2, N, D), not {tuple(z.shape)}")
    u, rows = normalize(z.float(), dim=-1), shared_rows()
    if rows is not None and rows.total == z.shape[1] >= SHARED_FROM:
        return _SharedNTXent.apply(u, tau, rows)
    return _NTXent.apply(u, tau)


class _NTXent(torch.autograd.Function):
    """NT-Xent of unit vectors u, where b is the positive of a, and s_ac = ⟨u_a, u_c⟩/τ for c ≠ a:

        ℓ = mean_a (lse_a − s_ab),   lse_a = log Σ_c exp s_ac,
        ∂ℓ/∂u_a = (Σ_c (exp(s_ac − lse_a) + exp(s_ac − lse_c)) u_c − 2 u_b) / 2Nτ.

    The forward pass computes the loss and its gradient, one block of s after the other. s is symmetric,
    so that blocks on and above the diagonal are enough.
    """

    @staticmethod
    def forward(ctx: Any, u: Float[Tensor, "2 N D"], tau: float) -> Float[Tensor, ""]:
        chunks = [chunk.flatten(0, 1) for chunk in u.split(CPU_BLOCK if u.device.type == "cpu" else GPU_BLOCK, 1)]
        # one block is kept; several are computed again for the gradient, to save memory
        blocks = [*_blocks(chunks, tau)] if len(chunks) == 1 else None
        lse, positive = [chunk.new_full((len(chunk),), -torch.inf) for chunk in chunks], []
        for i, j, s in blocks or _blocks(chunks, tau):
            lse[i] = lse[i].logaddexp(s.logsumexp(1))
            if i == j:
                # a chunk is (view 0, view 1), so positives lie half a chunk apart
                positive.append(s.diagonal(len(s) // 2).clone())
            else:  # block (j, i) is s.T
                lse[j] = lse[j].logaddexp(s.logsumexp(0))
        # s_ab = s_ba, so one row of positives serves both views
        loss = torch.cat([both.view(2, -1) - s_ab for both, s_ab in zip(lse, positive, strict=True)], 1).mean()
        if not ctx.needs_input_grad[0]:
            return loss
        scale = 1 / (2 * u.shape[1] * tau)
        # the term −2 u_b / 2Nτ: rolling by half a chunk swaps the views
        grads = [chunk.roll(len(chunk) // 2, 0).mul_(-2 * scale) for chunk in chunks]
        for i, j, s in blocks or _blocks(chunks, tau):
            weight = (s - lse[i][:, None]).exp_().add_((s - lse[j]).exp_())
            grads[i].addmm_(weight, chunks[j], alpha=scale)
            if i != j:
                grads[j].addmm_(weight.T, chunks[i], alpha=scale)
        ctx.save_for_backward(torch.cat([grad.unflatten(0, (2, -1)) for grad in grads], 1))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Float[Tensor, ""]) -> tuple[Float[Tensor, "2 N D"], None]:
        if torch.is_grad_enabled():  # once_differentiable lets create_graph pass where grad_loss needs no gradient
            raise RuntimeError("NT-Xent is differentiable once: take its gradient without create_graph")
        return grad_loss * ctx.saved_tensors[0], None


class _SharedNTXent(torch.autograd.Function):
    """NT-Xent of a batch that processes share: each computes the rows s_ac of its own anchors a.

    The gradient by an own u_a (see `_NTXent`) needs of other processes their lse, one number for each anchor. It is
    given for own rows only, which is all that an attack needs of it. In an update it is gathered, because parameters
    that were applied to gathered embeddings need all of it (base/shared_batch.py).
    """

    @staticmethod
    def forward(ctx: Any, u: Float[Tensor, "2 N D"], tau: float, rows: Rows) -> Float[Tensor, ""]:
        size, own = CPU_BLOCK if u.device.type == "cpu" else GPU_BLOCK, rows.own(u, 1)
        parts = [range(i, min(i + size, own.shape[1])) for i in range(0, own.shape[1], size)]
        lse = own.new_full(own.shape[:2], -torch.inf)
        for part in parts:
            for _, s in _own_blocks(u, tau, rows, part, size):
                at = slice(part.start, part.stop)
                lse[:, at] = lse[:, at].logaddexp(s.logsumexp(1).view(2, -1))
        positive = (own[0] * own[1]).sum() / tau
        loss = processes().sum(lse.sum() - 2 * positive) / (2 * u.shape[1])
        ctx.rows, ctx.shape = rows, u.shape
        if ctx.needs_input_grad[0]:
            every, scale, grads = rows.whole(lse, 1), 1 / (2 * u.shape[1] * tau), []
            for part in parts:
                at = slice(part.start, part.stop)
                grad, own_lse = own[:, at].flip(0).flatten(0, 1).mul(-2 * scale), lse[:, at].reshape(-1, 1)
                for columns, s in _own_blocks(u, tau, rows, part, size):
                    weight = (s - own_lse).exp_().add_((s - every[:, columns].flatten()).exp_())
                    grad.addmm_(weight, u[:, columns].flatten(0, 1), alpha=scale)
                grads.append(grad.unflatten(0, (2, -1)))
            ctx.save_for_backward(torch.cat([own[:, :0], *grads], 1))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Float[Tensor, ""]) -> tuple[Float[Tensor, "2 N D"], None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("NT-Xent is differentiable once: take its gradient without create_graph")
        (grad,) = ctx.saved_tensors
        if averages_gradients():
            return grad_loss * ctx.rows.whole(grad, 1), None, None
        whole = grad.new_zeros(ctx.shape)
        ctx.rows.own(whole, 1).copy_(grad_loss * grad)
        return whole, None, None


def _own_blocks(
    u: Float[Tensor, "2 N D"], tau: float, rows: Rows, part: range, size: int
) -> Iterator[tuple[slice, Float[Tensor, "b c"]]]:
    """Yield s between some own anchors and each chunk of all embeddings, and where the chunk is; −∞ with itself."""
    at = torch.arange(part.start, part.stop, device=u.device) + rows.slice.start
    a = rows.own(u, 1)[:, part.start : part.stop].flatten(0, 1)
    for j in range(0, u.shape[1], size):
        columns = slice(j, min(j + size, u.shape[1]))
        s = a.new_empty(len(a), 2 * (columns.stop - j)).addmm_(a, u[:, columns].flatten(0, 1).T, beta=0, alpha=1 / tau)
        itself = at[:, None] == torch.arange(j, columns.stop, device=u.device)
        by_view = s.view(2, len(at), 2, -1)
        for view in (0, 1):
            by_view[view, :, view].masked_fill_(itself, -torch.inf)
        yield columns, s


def _blocks(chunks: list[Float[Tensor, "b D"]], tau: float) -> Iterator[tuple[int, int, Float[Tensor, "b c"]]]:
    """Yield i, j and s between the chunks i and j ≥ i; s is −∞ between an embedding and itself."""
    for i, a in enumerate(chunks):
        for j, b in enumerate(chunks[i:], i):
            # autocast leaves in-place operations in float32
            s = a.new_empty(len(a), len(b)).addmm_(a, b.T, beta=0, alpha=1 / tau)
            yield i, j, s.fill_diagonal_(-torch.inf) if i == j else s


def info_nce(z: Float[Tensor, "V N D"], tau: float) -> Float[Tensor, ""]:
    """Return the mean over images of  −log Σ_{v>0} exp(sim(z_k⁰, z_kᵛ)/τ) / Σ_{z' ≠ z_k⁰} exp(sim(z_k⁰, z')/τ).

    View 0 is the anchor. The other views of its image are positives, which are summed inside the logarithm; all views
    of other images are negatives (Kim et al., NeurIPS 2020, arXiv:2006.07589, eq. 3).
    """
    similarity = similarities(z[:1], z, tau)[0]
    positive = similarity.diagonal(dim1=0, dim2=2)
    return (similarity.flatten(1).logsumexp(-1) - positive.logsumexp(0)).mean()


def pairwise_info_nce(
    z: Float[Tensor, "V N D"], tau: float, others: Float[Tensor, "V N D"] | None = None
) -> Float[Tensor, "V V N"]:
    """Return l[u, v, k] = −log exp(sim(z_kᵘ, z_kᵛ)/τ) / Σ_{z' ≠ z_kᵘ} exp(sim(z_kᵘ, z')/τ).

    u is the view of the anchor, v that of the positive, k their image. The sum runs over the other VN − 1 embeddings,
    which include all positives. l[u, u] = 0. The anchors z are compared with `others`, which hold the same embeddings
    (None: z). If these are z.detach(), the gradient flows only through the anchors.
    """
    similarity = similarities(z, others, tau)
    return zero_diagonal(similarity.flatten(2).logsumexp(-1)[:, None] - similarity.diagonal(dim1=1, dim2=3))


def mean_over_pairs(l_uv: Float[Tensor, "V V N"]) -> Float[Tensor, ""]:
    """Return the mean of l[u, v, k] over images k and pairs u ≠ v, where l[u, u, k] is 0."""
    views, _, images = l_uv.shape
    return l_uv.sum() / (views * (views - 1) * images)


def multi_view(z: Float[Tensor, "V N D"], tau: float) -> Float[Tensor, ""]:
    """Return the mean of  −log exp(sim(z_kᵘ, z_kᵛ)/τ) / Σ_{z' ≠ z_kᵘ} exp(sim(z_kᵘ, z')/τ)  over images and u ≠ v.

    It is SupCon (Khosla et al., NeurIPS 2020, arXiv:2004.11362, L_out) with each image as a class of its own. With two
    views it is NT-Xent.
    """
    return mean_over_pairs(pairwise_info_nce(z, tau))


def pairwise_hard_negative(
    z: Float[Tensor, "V N D"],
    tau: float,
    tau_plus: float,
    beta: float,
    others: Float[Tensor, "V N D"] | None = None,
) -> Float[Tensor, "V V N"]:
    """Return l[u, v, k] = −log s(z_kᵘ, z_kᵛ) / (P + max(N_g, M exp(−1/τ))),   s(a, b) = exp(sim(a, b)/τ).

    P is the mean of s over the anchor's V − 1 positives. Each of its M = V(N − 1) negatives weighs the more, the nearer
    it is, by the power β:

        N_g = (Σ s^(1+β) / mean s^β − τ⁺ M P) / (1 − τ⁺),   over the negatives.

    τ⁺ is the chance that a negative has the anchor's class (HCL: Robinson et al., ICLR 2021, arXiv:2010.04592).
    `others` is as in `pairwise_info_nce`. ValueError if the batch has a single image.
    """
    similarity = similarities(z, others, tau)
    same, count = same_image(z), negative_count(z)
    # log_mean is the logarithm of mean s^β over the negatives
    log_mean = (beta * similarity).masked_fill(same, -torch.inf).flatten(2).logsumexp(-1) - log(count)
    weighted = (1 + beta) * similarity - log_mean[..., None, None]
    log_negative = weighted.masked_fill(same, -torch.inf).flatten(2).logsumexp(-1)
    positive = similarity.diagonal(dim1=1, dim2=3)
    log_total = log_debiased(log_negative, positive, count, tau_plus, log(count) - 1 / tau)
    return zero_diagonal(log_total[:, None] - positive)


def same_image(z: Float[Tensor, "V N D"]) -> Bool[Tensor, "N 1 N"]:
    """Return a mask, to be broadcast, of [u, k, v, m] of `similarities` with k = m: the anchor and its positives."""
    return torch.eye(z.shape[1], dtype=torch.bool, device=z.device)[:, None]


def negative_count(z: Float[Tensor, "V N D"]) -> int:
    """Return M = V(N − 1), the number of negatives of an anchor. ValueError if there are none."""
    views, images = z.shape[:2]
    if images < 2:
        raise ValueError(f"hard negatives are other images: a batch needs 2 or more, not {images}")
    return views * (images - 1)


def log_debiased(
    log_negative: Float[Tensor, "V N"], positive: Float[Tensor, "V V N"], count: int, tau_plus: float, log_floor: float
) -> Float[Tensor, "V N"]:
    """Return log (P + max(N_g, floor)) of each anchor, with N_g = (exp(log_negative) − τ⁺ M P) / (1 − τ⁺).

    M is `count`, and P the mean over positives. `positive` holds the similarities of each anchor to the views of its
    own image, and −∞ to the anchor itself.
    """
    log_positive = positive.logsumexp(1) - log(len(positive) - 1)
    top = torch.maximum(log_negative, log_positive).detach()  # factored out, as in log-sum-exp
    P, floor = (log_positive - top).exp(), (log_floor - top).exp()
    N_g = ((log_negative - top).exp() - tau_plus * count * P) / (1 - tau_plus)
    return top + (P + torch.maximum(N_g, floor)).log()


def similarities(
    anchor: Float[Tensor, "U N D"], others: Float[Tensor, "V N D"] | None, tau: float
) -> Float[Tensor, "U N V N"]:
    """Return sim(a_kᵘ, b_mᵛ)/τ at [u, k, v, m], and −∞ where u = v and k = m.

    `others` holds b, of which the anchors are the first U views; None: b = a. ValueError unless they
    have the shape (V, N, D) with V ≥ 2.
    """
    others = anchor if others is None else others
    if others.ndim != 3 or len(others) < 2:
        raise ValueError(f"a contrastive loss takes two views or more, shape (V, N, D), not {tuple(others.shape)}")
    a, b = (normalize(z.float(), dim=-1) for z in (anchor, others))
    similarity = torch.einsum("und,vmd->unvm", a, b) / tau
    itself = torch.eye(len(a) * a.shape[1], len(b) * b.shape[1], dtype=torch.bool, device=a.device)
    return similarity.masked_fill(itself.view_as(similarity), -torch.inf)


def zero_diagonal(l_uv: Float[Tensor, "V V N"]) -> Float[Tensor, "V V N"]:
    """Return l[u, v, k] with 0 where u = v: no view is its own positive."""
    return l_uv.masked_fill(torch.eye(len(l_uv), dtype=torch.bool, device=l_uv.device)[..., None], 0)


def check_temperature(tau: float) -> None:
    """Raise ValueError unless τ is positive: at 0 the loss is not defined, and below 0 positives would repel."""
    if not (tau > 0 and isfinite(tau)):
        raise ValueError(f"a temperature τ is a positive number, such as 0.5, not {tau}")
