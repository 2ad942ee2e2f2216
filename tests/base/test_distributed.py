"""Pieces of work in the order of their numbers, however many processes share them."""

from functools import partial
from pathlib import Path

from torch import distributed as dist

from processes import Forked
from unshaken.base.distributed import Processes, processes


def shared(rank: int, meeting: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=3)
    made = []
    for pieces in (0, 1, 7):
        got = processes().each(pieces, lambda k: made.append(k) or k * k)
        assert got == [k * k for k in range(pieces)], got
    assert len(made) == {0: 4, 1: 2, 2: 2}[rank], made
    dist.destroy_process_group()


def test_alone_a_process_does_it_all():
    assert processes() == Processes(0, 1)
    assert processes().each(3, lambda k: k * k) == [0, 1, 4]


def test_three_share(tmp_path: Path):
    running = [Forked(partial(shared, rank, tmp_path / "meet")) for rank in range(3)]
    said = [one.communicate()[1].decode() for one in running]
    assert [one.returncode for one in running] == [0, 0, 0], said
