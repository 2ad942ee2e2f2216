"""Pieces of work and rows of a batch, however many processes share them; what one says, all hear."""

import os
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from processes import Forked, together
from unshaken.base.distributed import Processes, processes
from unshaken.base.shared_batch import averaging_gradients, drawn, own_rows, shared_rows, sharing, whole_batch

GROUPS = pytest.mark.parametrize("count", [2, 3])
TOTALS = (7, 6, 2, 1)
"""Rows of a batch: uneven ones, and processes without any."""


def data(total: int) -> torch.Tensor:
    return torch.randn(2, total, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(total))


def loss(z: torch.Tensor) -> torch.Tensor:
    """A scalar in which every row meets every other."""
    return (z.flatten(0, 1) @ z.flatten(0, 1).T).sin().sum()


def rows_and_gradients(us: Processes) -> None:
    for total in TOTALS:
        z = data(total).requires_grad_()
        (expected,) = torch.autograd.grad(loss(z), z)
        rows = us.rows(total)
        assert rows is not None
        assert max(rows.sizes) - min(rows.sizes) <= 1
        assert rows.total == total
        mine = rows.own(z.detach(), 1).clone().requires_grad_()
        whole = rows.whole(mine, 1)
        assert torch.equal(whole, z)
        (found,) = torch.autograd.grad(loss(whole), mine)
        assert torch.equal(found, rows.own(expected, 1))
        with averaging_gradients():
            (found,) = torch.autograd.grad(loss(rows.whole(mine, 1)), mine)
        assert torch.allclose(found, us.count * rows.own(expected, 1), rtol=1e-12)
        assert rows.whole(torch.arange(total)[rows.slice]).tolist() == [*range(total)]


def draws_and_context(us: Processes) -> None:
    rows = us.rows(5)
    full = torch.empty(2, 5, 3).uniform_(generator=torch.Generator().manual_seed(1))
    with sharing(rows):
        assert shared_rows() is rows
        found = drawn(torch.empty(2, rows.sizes[us.rank], 3), 1, lambda x: draw(x))
        assert torch.equal(found, own_rows(full, 1))
        assert torch.equal(whole_batch(found, 1), full)
    assert shared_rows() is None
    assert torch.equal(whole_batch(full, 1), full)


def draw(x: torch.Tensor) -> torch.Tensor:
    return x.uniform_(generator=torch.Generator().manual_seed(1))


def words(us: Processes) -> None:
    assert us.agree(10 * us.rank) == 10 * (us.count - 1)
    made = []
    assert us.first(lambda: made.append(us.rank) or us.rank) == 0
    assert made == [0] * (us.rank == 0)
    with pytest.raises(ValueError, match="a full disk") as told:
        us.first(lambda: (_ for _ in ()).throw(ValueError("a full disk")))
    assert hasattr(told.value, "said_elsewhere") == (us.rank > 0)
    with pytest.raises((Odd, RuntimeError), match="strange"):
        us.first(lambda: (_ for _ in ()).throw(Odd("strange", 1)))
    assert us.first(processes) == Processes()
    order = []
    assert us.in_turn(lambda: order.append(us.rank) or processes()) == Processes()
    assert order == [us.rank]
    us.wait()
    assert us.sum(torch.tensor([us.rank + 1])).item() == us.count * (us.count + 1) / 2


class Odd(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)


def pieces(us: Processes) -> None:
    made = []
    for count in (0, 1, 7):
        got = us.each(count, lambda k: made.append(k) or (k, torch.tensor([k * k])))
        assert got == [(k, torch.tensor([k * k])) for k in range(count)], got
    assert len(made) == {2: (5, 3), 3: (4, 2, 2)}[us.count][us.rank], made


def shared(rank: int, count: int) -> None:
    us = processes()
    assert us == Processes(rank, count)
    for check in (rows_and_gradients, draws_and_context, words, pieces):
        check(us)


def test_alone_a_process_does_it_all():
    alone = processes()
    assert alone == Processes(0, 1)
    assert alone.each(3, lambda k: k * k) == [0, 1, 4]
    assert alone.rows(7) is None
    assert alone.first(lambda: 5) == alone.agree(5) == 5


@GROUPS
def test_processes_share(count: int, tmp_path: Path):
    together(count, partial(shared, count=count), tmp_path / "meet")


def test_the_death_of_one_is_noticed_by_the_other(tmp_path: Path):
    """It does not wait until its patience ends."""

    def work(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=rank, world_size=2)
        processes().wait()
        if rank:
            os._exit(9)
        with pytest.raises(RuntimeError):
            processes().agree(1)
        os._exit(7)

    begun = time.monotonic()
    running = [Forked(partial(work, rank)) for rank in range(2)]
    said = [one.communicate() for one in running]
    assert [one.returncode for one in running] == [7, 9], said
    assert time.monotonic() - begun < 30
