"""Batch norms over processes against PyTorch's on the whole batch; they are folded like any other."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import unshaken
from processes import together
from unshaken.base.distributed import processes
from unshaken.base.shared_batch import sharing
from unshaken.compute.bn_folding import BatchNormFolder
from unshaken.nets.activation_checkpointing import CheckpointedStage
from unshaken.nets.dual_bn import merge_route, set_route
from unshaken.nets.shared_bn import SHARED, moments, share_batch_norms, use_ghost_batches
from unshaken.nets.timm_nets import timm_package

NORMS = {
    "maps": partial(nn.BatchNorm2d, 3),
    "features": partial(nn.BatchNorm1d, 3),
    "cumulative": partial(nn.BatchNorm2d, 3, momentum=None),
    "plain": partial(nn.BatchNorm1d, 3, affine=False),
    "timm's": lambda dtype: timm_package().layers.BatchNormAct2d(3, dtype=dtype),
    "no statistics": partial(nn.BatchNorm2d, 3, track_running_stats=False),
}


def some(total: int, *shape: int) -> torch.Tensor:
    return torch.randn(total, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(total)) * 2 + 1


def pulled(net: nn.Module, x: torch.Tensor, rows=None) -> list[torch.Tensor]:
    """The output, its gradients by the input and by parameters (summed), after a loss in which images meet."""
    x = x.clone().requires_grad_()
    y = net(x)
    y = y if rows is None else rows.whole(y)
    (y.flatten(1) @ y.flatten(1).T).sin().sum().backward()
    grads = [processes().sum(p.grad.clone()) for p in net.parameters()]
    return [y.detach(), x.grad if rows is None else rows.whole(x.grad), *grads]


def matches(net: nn.Module, x: torch.Tensor, updates: int = 2) -> None:
    """In train mode for some batches, then in eval mode."""
    shared, us = copy.deepcopy(net), processes()
    share_batch_norms(shared)
    rows = us.rows(len(x))
    for k in range(updates + 1):
        alone = [one.clone() for one in pulled(net, x + k)]
        alone[2:] = [p.grad.clone() for p in net.parameters()]
        with sharing(rows):
            found = pulled(shared, rows.own(x + k), rows)
        for one, other in zip(found, alone, strict=True):
            assert torch.allclose(one, other, rtol=1e-11, atol=1e-11)
        for name, value in net.state_dict().items():
            assert torch.allclose(shared.state_dict()[name].double(), value.double(), rtol=1e-12), name
        for module in (net, shared):
            module.zero_grad()
            module.train(k < updates - 1)


def work(rank: int) -> None:
    for total in (5, 2):
        for build in NORMS.values():
            norm = build(dtype=torch.float64)
            matches(norm, some(total, *([] if isinstance(norm, nn.BatchNorm1d) else [4, 4])))
        blocks = CheckpointedStage(nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))).double()
        blocks.recompute = True
        matches(blocks, some(total, 4, 4))
    x, rows = some(5, 4, 4), processes().rows(5)
    with sharing(rows):
        ((mean,), (var,)) = moments(nn.BatchNorm2d(3), rows.own(x))
    assert torch.allclose(mean, x.mean((0, 2, 3)))
    assert torch.allclose(var, x.transpose(0, 1).flatten(1).var(1))
    half = nn.BatchNorm2d(3)
    shared = copy.deepcopy(half)
    share_batch_norms(shared)
    with sharing(rows):
        y = shared(rows.own(x).bfloat16())
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), rows.own(half(x.float())), atol=0.05)

    for total in (7, 4, 2):
        ghosts_match(total, processes().rows(total))


def of_groups(norm: nn.Module, x: torch.Tensor, images: int, size: int) -> tuple[torch.Tensor, dict]:
    """The definition: rows of each group of images by their own mean and variance, and running statistics in turn."""
    groups = [[*range(begin, min(begin + size, images))] for begin in range(0, images, size)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        last = groups.pop()
        groups[-1] += last
    y, mean, var = torch.empty_like(x), norm.running_mean.clone(), norm.running_var.clone()
    for group in groups:
        rows = [row for row in range(len(x)) if row % images in group]
        for c in range(3):
            values = x[rows, c]
            m, v = values.mean(), values.var(unbiased=False)
            y[rows, c] = norm.weight[c] * (values - m) / (v + norm.eps).sqrt() + norm.bias[c]
            mean[c] = 0.9 * mean[c] + 0.1 * m.detach()
            var[c] = 0.9 * var[c] + 0.1 * values.detach().var()
    return y, {"running_mean": mean, "running_var": var, "num_batches_tracked": torch.tensor(len(groups))}


def ghosts_match(images: int, rows=None, size: int = 3) -> None:
    """Outputs, all gradients and statistics are those of the definition, for one view and two, and recomputed."""
    for views, shape, recompute in ((2, (4, 2), False), (1, (), False), (2, (4, 2), True)):
        x = some(views * images, *shape)
        norm = nn.Sequential(nn.BatchNorm2d(3) if shape else nn.BatchNorm1d(3)).double()
        nn.init.uniform_(norm[0].weight, generator=torch.Generator().manual_seed(1))
        net = CheckpointedStage(copy.deepcopy(norm[0]))
        net.recompute = recompute
        use_ghost_batches(net, size)
        x_all = x.clone().requires_grad_()
        expected, statistics = of_groups(norm[0], x_all, images, size)
        (expected.flatten(1) @ expected.flatten(1).T).sin().sum().backward()
        own = x.unflatten(0, (views, -1))
        own = (own if rows is None else rows.own(own, 1)).flatten(0, 1).requires_grad_()
        with sharing(rows, images):
            y = net(own).unflatten(0, (views, -1))
            y = (y if rows is None else rows.whole(y, 1)).flatten(0, 1)
            (y.flatten(1) @ y.flatten(1).T).sin().sum().backward()
        found = own.grad.unflatten(0, (views, -1))
        found = (found if rows is None else rows.whole(found, 1)).flatten(0, 1)
        assert torch.allclose(y, expected, rtol=0, atol=1e-10)
        assert torch.allclose(found, x_all.grad, rtol=0, atol=1e-10)
        for mine, one in zip(net.parameters(), norm.parameters(), strict=True):
            assert torch.allclose(processes().sum(mine.grad.clone()), one.grad, rtol=0, atol=1e-10)
        for name, value in statistics.items():
            assert torch.allclose(getattr(net[0], name).double(), value.double(), rtol=0, atol=1e-12), name


@pytest.mark.parametrize("images", [7, 6, 5, 2])
def test_ghost_batches_are_normalised_by_their_own_statistics(images):
    """7 images are groups of 3 and 4; 5 of 3 and 2; 2 of 2."""
    ghosts_match(images)


def test_ghost_batches_are_those_of_pytorch_on_each_group_in_turn():
    """Without a batch around, each row is an image; without a momentum, running statistics are means over groups."""
    one, x = nn.BatchNorm2d(3, momentum=None), some(9, 4, 4).float()
    net = nn.Sequential(copy.deepcopy(one))
    use_ghost_batches(net, 3)
    assert torch.allclose(net(x), torch.cat([one(part) for part in x.split(3)]), atol=1e-6)
    for name, value in one.state_dict().items():
        assert torch.allclose(net[0].state_dict()[name], value, rtol=1e-5), name
    assert torch.allclose(net.eval()(x), one.eval()(x), atol=1e-5)
    with sharing(None, 4), pytest.raises(ValueError, match="takes all 4 images of a batch"):
        net.train()(x)
    with pytest.raises(ValueError, match="no batch norms, so that --ghost-batch changes nothing"):
        use_ghost_batches(nn.Sequential(nn.LayerNorm(3)), 2)


def test_three_processes_normalise_as_one(tmp_path: Path):
    together(3, work, tmp_path / "meet")


def test_alone_they_are_what_they_were():
    """Their names, values and outputs stay, also where the whole batch is here."""
    net, x = unshaken.recipe("acl/digits").build_network(), torch.rand(4, 1, 8, 8)
    shared = copy.deepcopy(net)
    share_batch_norms(shared)
    assert [*shared.state_dict()] == [*net.state_dict()]
    assert any(type(module) in SHARED.values() for module in shared.modules())
    assert torch.equal(shared(x, "adv"), net(x, "adv"))


def test_as_many_are_folded():
    """Otherwise an attack is slower, and nothing tells."""
    routed = unshaken.recipe("acl/digits").build_network().encoder.eval()
    for encoder, size in ((routed, 0), (routed, 2), (merge_route(routed, "adv"), 0)):
        shared, x, counts = copy.deepcopy(encoder), torch.rand(4, 1, 8, 8), []
        share_batch_norms(shared)
        use_ghost_batches(shared, size)
        set_route(encoder, "adv")
        for each in (encoder, shared):
            folder = BatchNormFolder(torch.float32)
            assert torch.allclose(folder(each, "adv")(x), encoder(x), atol=1e-5)
            counts.append(len(folder.made["adv"][1]))
        assert counts[0] == counts[1] > 3


class Odd(nn.BatchNorm2d):
    """A batch norm that does more."""


def test_a_kind_that_may_do_more_is_refused():
    with pytest.raises(ValueError, match="batch norms of the kind Odd"):
        share_batch_norms(nn.Sequential(Odd(3)))
