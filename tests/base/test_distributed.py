"""Pieces of work in the order of their numbers, however many processes share them."""

import subprocess
import sys
from pathlib import Path

import pytest

from unshaken.base.distributed import Processes, processes

TWO = """
import sys
import torch.distributed as dist
from unshaken.base.distributed import processes
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=3)
made = []
for pieces in (0, 1, 7):
    got = processes().each(pieces, lambda k: made.append(k) or k * k)
    assert got == [k * k for k in range(pieces)], got
assert len(made) == {0: 4, 1: 2, 2: 2}[rank], made
dist.destroy_process_group()
"""


def test_alone_a_process_does_it_all():
    assert processes() == Processes(0, 1)
    assert processes().each(3, lambda k: k * k) == [0, 1, 4]


@pytest.mark.slow
def test_three_share(tmp_path: Path):
    command = [sys.executable, "-W", "ignore", "-c", TWO]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path / "meet")]) for rank in range(3)]
    assert [one.wait(60) for one in running] == [0, 0, 0]
