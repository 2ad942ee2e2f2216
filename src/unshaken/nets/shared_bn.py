"""Batch norms whose statistics are those of a batch that processes share, or of groups of its images.

PyTorch's SyncBatchNorm refuses CPUs and waits for the device in each layer; these run on any device, with any number of
images in a process, also none. Outside a shared batch, and without groups, they are PyTorch's own batch norms.

Groups are ghost batches (Hoffer et al., NeurIPS 2017, arXiv:1705.08741): images in the order of the batch, each with
all of its views, that are normalised by their own statistics. Running statistics follow one group after the other, as
if PyTorch's batch norm had seen the groups in turn. Groups are those of the whole batch, also where one lies in two
processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unshaken.base.distributed import processes
from unshaken.base.shared_batch import Rows, batch_images, shared_rows


class SharedBatchNorm1d(nn.BatchNorm1d):
    """A batch norm of features whose batch may be shared by processes."""

    def forward(self, input: Tensor) -> Tensor:
        return _normalised(self, input, super().forward)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm of maps whose batch may be shared by processes."""

    def forward(self, input: Tensor) -> Tensor:
        return _normalised(self, input, super().forward)


SHARED: dict[type, type] = {nn.BatchNorm1d: SharedBatchNorm1d, nn.BatchNorm2d: SharedBatchNorm2d}
"""The shared form of each kind of batch norm."""


def share_batch_norms(net: nn.Module) -> None:
    """Let the batch norms of a network share their statistics, in place. Names and values stay as they are.

    ValueError if it has a kind of batch norm of which there is no shared form.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm) and not is_shared(module):
            module.__class__ = _shared_form(type(module))


def use_ghost_batches(net: nn.Module, images: int) -> None:
    """Let the batch norms of a network, in train mode, take their statistics over groups of so many images, in place.

    The last group of a batch may be smaller; a single image joins the group before it. 0: the whole batch, as before.
    ValueError if the network has no batch norm, or one of another kind than PyTorch's and timm's.
    """
    if not images:
        return
    share_batch_norms(net)
    norms = [module for module in net.modules() if is_shared(module)]
    if not norms:
        raise ValueError("the network has no batch norms, so that --ghost-batch changes nothing: leave it out")
    for norm in norms:
        norm.ghost_batch = images  # pyright: ignore[reportArgumentType]


def is_shared(module: nn.Module) -> bool:
    """Return whether a module is a batch norm that can share its statistics."""
    return type(module) in SHARED.values()


def kind_of(module: nn.Module) -> type:
    """Return the class of a module, or the one that a shared batch norm had before."""
    return next((plain for plain, shared in SHARED.items() if type(module) is shared), type(module))


def _shared_form(kind: type) -> type:
    if kind not in SHARED and kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm."):
        SHARED[kind] = type("SharedBatchNormAct2d", (kind,), {"forward": _with_activation})
    if kind not in SHARED:
        raise ValueError(
            f"processes cannot share a batch of a network with batch norms of the kind {kind.__name__}, which may do "
            "more than normalise, nor can these have --ghost-batch: train it in one process without, or give it "
            "torch.nn.BatchNorm2d"
        )
    return SHARED[kind]


def _with_activation(norm: Any, x: Tensor) -> Tensor:
    """Compute timm's BatchNormAct2d: a batch norm, its dropout and its activation."""
    y = _normalised(norm, x, lambda x: None)
    return kind_of(norm).forward(norm, x) if y is None else norm.act(norm.drop(y))  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Groups:
    """The ghost batches of a batch: how many own rows of a tensor each has, and the group of each row, (n)."""

    rows: tuple[int, ...]
    of_rows: Tensor

    @classmethod
    def of(cls, norm: nn.Module, x: Tensor) -> Groups | None:
        """Return the groups of x, (V·n C ...) of V views of n images, for a batch norm; None: all is one group."""
        size = getattr(norm, "ghost_batch", 0)
        if not size:
            return None
        total, own = batch_images() or (len(x), range(len(x)))
        views, odd = divmod(len(x), max(1, len(own)))
        if odd:
            raise ValueError(
                f"with --ghost-batch a forward pass in train mode takes all {len(own)} images of a batch, in one or "
                f"several views, not {len(x)} images"
            )
        count = max(1, total // size + (total % size > 1))
        edges = [*range(0, count * size, size)[:count], total]
        rows = tuple(views * len(range(max(a, own.start), min(b, own.stop))) for a, b in pairwise(edges))
        of_images = (torch.arange(own.start, own.stop, device=x.device) // size).clamp_max_(count - 1)
        return cls(rows, of_images.repeat(views))


def moments(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance, (G C), of what a batch norm sees, (N C ...): of each group of the batch."""
    groups = Groups.of(norm, x)
    if shared_rows() is None and groups is None:
        var, mean = torch.var_mean(x, _axes(x))
        return mean[None], var[None]
    mean, var, count = _shared_moments(x, groups)
    return mean, var * (count / (count - 1))


def _normalised(norm: _BatchNorm, x: Tensor, alone: Any) -> Tensor:
    if not (norm.training or norm.running_mean is None):
        return alone(x)
    groups = Groups.of(norm, x)
    if shared_rows() is None and groups is None:
        return alone(x)
    seen: list[Tensor] = []
    weight = norm.weight if norm.weight is not None else x.new_ones(x.shape[1])
    bias = norm.bias if norm.bias is not None else x.new_zeros(x.shape[1])
    y = _Normalise.apply(x, weight, bias, norm.eps, groups, seen)
    if norm.training and norm.running_mean is not None:
        for mean, var, count in zip(*seen, strict=True):
            _follow(norm, mean, var, count)
    return y


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, var: Tensor, count: Tensor) -> None:
    """Move the running statistics, as PyTorch does: with a momentum, or as the mean over all batches without one."""
    norm.num_batches_tracked.add_(1)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum  # pyright: ignore[reportArgumentType]
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType, reportCallIssue]
    norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var), share)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType, reportCallIssue]


def _shared_moments(x: Tensor, groups: Groups | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance, (G C), and number of values of a channel, (G 1), of each group over all processes.

    Each process tells the mean of its part, the squared deviations from it and its count, 2C + 1 numbers: nothing
    cancels.
    """
    C = x.shape[1]
    values = x.shape[2:].numel()  # of one row and channel
    count = x.new_tensor([[rows * values] for rows in ((len(x),) if groups is None else groups.rows)])
    mean = _sums(x, groups) / count.clamp_min(1)
    squares = _sums((x - _spread(mean, groups, x)).square(), groups)
    rows = shared_rows()
    if rows is not None:
        own = torch.cat([mean, squares, count], 1)
        told = Rows(rows.rank, (1,) * len(rows.sizes)).whole(own[None])
        means, parts, counts = told.split([C, C, 1], 2)
        count = counts.sum(0)
        mean = (means * counts).sum(0) / count
        squares = parts.sum(0) + (counts * (means - mean).square()).sum(0)
    return mean, squares / count, count


class _Normalise(torch.autograd.Function):
    """y = γ (x − μ)/σ + β with μ and σ of each group over all processes. Backwards 2C numbers are summed over them.

    The gradients of γ and β are the parts of own images, as all gradients of parameters are before they are summed.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, groups: Groups | None, seen: list[Tensor]
    ) -> Tensor:
        values = _wide(x)
        mean, var, count = _shared_moments(values, groups)
        seen += mean, var, count
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.groups, ctx.shared = groups, shared_rows() is not None
        y = (values - _spread(mean, groups, x)) * _spread(scale * weight, groups, x) + _spread(bias[None], None, x)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        groups = ctx.groups
        dy, x_hat = _wide(grad), (_wide(x) - _spread(mean, groups, x)) * _spread(scale, groups, x)
        own = torch.stack([_sums(dy, groups), _sums(dy * x_hat, groups)])
        d_bias, d_weight = own.sum(1)
        of_bias, of_weight = (processes().sum(own) if ctx.shared else own) / count
        centred = dy - _spread(of_bias, groups, x) - x_hat * _spread(of_weight, groups, x)
        d_x = (_spread(weight * scale, groups, x) * centred).to(x.dtype)
        return d_x, d_weight.to(weight.dtype), d_bias.to(weight.dtype), None, None, None


def _sums(x: Tensor, groups: Groups | None) -> Tensor:
    """Return the sums (G C) of x (n C ...) over each group's rows and over all other axes but the channels."""
    if groups is None:
        return x.sum(_axes(x))[None]
    per_row = x.flatten(2).sum(2) if x.ndim > 2 else x
    return per_row.new_zeros(len(groups.rows), x.shape[1]).index_add_(0, groups.of_rows, per_row)


def _spread(of_groups: Tensor, groups: Groups | None, x: Tensor) -> Tensor:
    """Return numbers (G C) of each group in a shape that broadcasts to x (n C ...)."""
    of_rows = of_groups if groups is None else of_groups[groups.of_rows]
    return of_rows.view(*of_rows.shape, *[1] * (x.ndim - 2))


def _wide(x: Tensor) -> Tensor:
    """Return x in float32 if it is in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]
