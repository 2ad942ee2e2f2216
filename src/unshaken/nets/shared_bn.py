"""Batch norms whose statistics are those of a batch that processes share, each with some of its images.

PyTorch's SyncBatchNorm refuses CPUs and waits for the device in each layer; these run on any device, with any number of
images in a process, also none. Outside a shared batch they are PyTorch's own batch norms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unshaken.base.distributed import processes
from unshaken.base.shared_batch import Rows, shared_rows


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
            "more than normalise: train it in one process, or give it torch.nn.BatchNorm2d"
        )
    return SHARED[kind]


def _with_activation(norm: Any, x: Tensor) -> Tensor:
    """Compute timm's BatchNormAct2d: a batch norm, its dropout and its activation."""
    y = _normalised(norm, x, lambda x: None)
    return kind_of(norm).forward(norm, x) if y is None else norm.act(norm.drop(y))  # pyright: ignore[reportAttributeAccessIssue]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance of each channel, (N C ...), over the whole batch."""
    if shared_rows() is None:
        var, mean = torch.var_mean(x, _axes(x))
        return mean, var
    mean, var, count = _shared_moments(x)
    return mean, var * (count / (count - 1))


def _normalised(norm: _BatchNorm, x: Tensor, alone: Any) -> Tensor:
    if shared_rows() is None or not (norm.training or norm.running_mean is None):
        return alone(x)
    seen: list[Tensor] = []
    weight = norm.weight if norm.weight is not None else x.new_ones(x.shape[1])
    bias = norm.bias if norm.bias is not None else x.new_zeros(x.shape[1])
    y = _Normalise.apply(x, weight, bias, norm.eps, seen)
    if norm.training and norm.running_mean is not None:
        _follow(norm, *seen)
    return y


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, var: Tensor, count: Tensor) -> None:
    """Move the running statistics, as PyTorch does: with a momentum, or as the mean over all batches without one."""
    norm.num_batches_tracked.add_(1)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum  # pyright: ignore[reportArgumentType]
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType, reportCallIssue]
    norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var), share)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType, reportCallIssue]


def _shared_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and number of values of each channel over all processes.

    Each tells its mean, its squared deviations from it and its count, 2C + 1 numbers: nothing cancels.
    """
    C = x.shape[1]
    count = x.new_tensor([x.numel() / C])
    mean = x.sum(_axes(x)) / count.clamp_min(1)
    own = torch.cat([mean, (x - _column(mean, x)).square().sum(_axes(x)), count])
    rows = shared_rows()
    assert rows is not None
    told = Rows(rows.rank, (1,) * len(rows.sizes)).whole(own[None])
    means, squares, counts = told.split([C, C, 1], 1)
    total = counts.sum()
    mean = (means * counts).sum(0) / total
    return mean, (squares.sum(0) + (counts * (means - mean).square()).sum(0)) / total, total


class _Normalise(torch.autograd.Function):
    """y = γ (x − μ)/σ + β with μ and σ of all processes. Backwards 2C numbers are summed over them.

    The gradients of γ and β are the parts of own images, as all gradients of parameters are before they are summed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, seen: list[Tensor]) -> Tensor:
        values = _wide(x)
        mean, var, count = _shared_moments(values)
        seen += mean, var, count
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        y = (values - _column(mean, x)) * _column(scale * weight, x) + _column(bias, x)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        dy, x_hat = _wide(grad), (_wide(x) - _column(mean, x)) * _column(scale, x)
        d_bias, d_weight = dy.sum(_axes(x)), (dy * x_hat).sum(_axes(x))
        of_bias, of_weight = processes().sum(torch.cat([d_bias, d_weight])).chunk(2)
        centred = dy - _column(of_bias / count, x) - x_hat * _column(of_weight / count, x)
        d_x = (_column(weight * scale, x) * centred).to(x.dtype)
        return d_x, d_weight.to(weight.dtype), d_bias.to(weight.dtype), None, None


def _wide(x: Tensor) -> Tensor:
    """Return x in float32 if it is in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _column(of_channels: Tensor, x: Tensor) -> Tensor:
    return of_channels.view(1, -1, *[1] * (x.ndim - 2))
