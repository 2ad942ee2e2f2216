"""Shards are disjoint, and together everything."""

import pytest

from unshaken.base.shard import Shard


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_piece_belongs_to_exactly_one_process(count):
    pieces = [piece for rank in range(1, count + 1) for piece in Shard(rank, count).of(5)]
    assert sorted(pieces) == list(range(5))


def test_a_shard_is_read_and_written_as_2_3():
    assert Shard.read("2/3") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"


@pytest.mark.parametrize("text", ["3/2", "0/2", "2", "a/b", "1/0", "1/2/3"])
def test_malformed_shards_are_refused(text):
    with pytest.raises(ValueError, match="a shard is"):
        Shard.read(text)
