"""Key: draws that depend on the path and on nothing else."""

from hashlib import blake2b

import pytest
import torch

from unshaken.base.rng import Key


def draw(key: Key) -> torch.Tensor:
    return torch.rand(4, generator=key.on("cpu"))


def test_equal_paths_give_equal_draws():
    assert Key(7) / "attack" / 3 == Key(7, ("attack", 3))
    assert torch.equal(draw(Key(7) / "attack" / 3), draw(Key(7, ("attack", 3))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Key(0), Key(1)),
        (Key(0), Key(0) / 0),
        (Key(0) / "a", Key(0) / "b"),
        (Key(0) / 1, Key(0) / 2),
        (Key(0) / 1, Key(0) / "1"),
        (Key(0) / 1 / 2, Key(0) / 2 / 1),
        (Key(0) / 1 / 2, Key(0) / 12),
        (Key(0) / "a" / "b", Key(0) / "ab"),
        (Key(0) / "a" / "b", Key(0) / "a', 'b"),
        (Key(1) / 2, Key(2) / 1),
        (Key(1) / 2, Key(12)),
    ],
)
def test_different_paths_give_different_draws(one, other):
    assert one.number != other.number
    assert not torch.equal(draw(one), draw(other))


def test_the_number_is_the_same_in_every_process():
    # recorded; Python's own hash of a string would change with PYTHONHASHSEED
    assert Key(0).number == 9183883414534618160
    assert (Key(7) / "attack" / 3).number == 1213856192642827140


def test_the_number_is_63_bits_of_a_digest():
    digest = blake2b(b"(7, ('attack', 3))", digest_size=8).hexdigest()
    assert (Key(7) / "attack" / 3).number == int(digest, 16) // 2
    assert all(0 <= (Key(0) / k).number < 2**63 for k in range(100))


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    draw(Key(0) / "x")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_starts_afresh_each_time():
    key = Key(0) / "x"
    rng = key.on("cpu")
    first, second = torch.rand(4, generator=rng), torch.rand(4, generator=rng)
    assert not torch.equal(first, second)
    assert torch.equal(draw(key), first)
