"""Shards are disjoint, and together everything."""

import pytest

from unshaken.base.shard import Shard


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_piece_is_one_process_s(count):
    pieces = [piece for rank in range(1, count + 1) for piece in Shard(rank, count).of(5)]
    assert sorted(pieces) == list(range(5))


def test_as_it_is_written():
    assert Shard.read("2/3") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"


@pytest.mark.parametrize("text", ["3/2", "0/2", "2", "a/b", "1/0", "1/2/3"])
def test_mistakes(text):
    with pytest.raises(ValueError, match="a shard is"):
        Shard.read(text)
