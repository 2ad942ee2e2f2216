"""Attacks that are kept a bit a pixel: what comes back, for which images, and that each method makes one a step."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import unshaken
from unshaken.attacks.ball import L2, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.methods.base import Step
from unshaken.nets.network import Network
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.attack_cache import SUM, AttackCache
from unshaken.train.attack_policy import AttackPolicy, PolicyAttack, attacking, replace_attacks, with_attack_steps
from unshaken.train.batches import BatchStream, Position

METHODS = [name for name in RECIPES if isinstance(unshaken.recipe(f"{name}/digits"), Pretrain)]


def loss(x: Tensor) -> Tensor:
    """Its gradient has both signs, by pixel."""
    return (x * torch.sin(37 * torch.arange(x.numel()) + 1).view(x.shape)).sum()


@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(0.5)])
@pytest.mark.parametrize("views", [(), (2,), (2, 3)])
def test_every_pixel_goes_the_way_it_went(ball, views, tmp_path):
    """l∞: after 2ε/ρ steps of one sign all pixels are at the border of the ball, and come back as they were."""
    rng, attack = Key("x").on("cpu"), PGD(ball, steps=9, rel_step_size=0.25)
    x, index = torch.rand(*views, 4, 3, 5, 5, generator=rng), torch.tensor([5, 0, 9, 2])
    x[..., 0], x[..., 1] = 0, 1  # black and white pixels, which an attack cannot push further
    attacks = AttackCache(tmp_path / "a.bits", 10)
    found = PolicyAttack(attack, AttackPolicy(record=attacks), index)(loss, x, None, Key("start"))
    again = PolicyAttack(attack, AttackPolicy(reuse=attacks), index)(None, x, None, Key(0))
    assert (ball.distance(again, x) <= ball.eps + 1e-6).all()
    assert (again >= 0).all()
    assert (again <= 1).all()
    assert torch.equal((again - x) > 0, (found - x) > 0)
    if isinstance(ball, Linf):
        assert torch.allclose(again, found, atol=1e-6)
    order = torch.tensor([3, 1])
    part = PolicyAttack(attack, AttackPolicy(reuse=attacks), index[order])(None, x[..., order, :, :, :], None, Key(0))
    assert torch.equal(part, again[..., order, :, :, :])
    assert (tmp_path / "a.bits").stat().st_size == 10 * (-(-75 * x[..., 0, 0, 0, 0].numel() // 8) + SUM)


def test_written_again_it_is_the_same_file(tmp_path):
    attack, x = PGD(steps=2), torch.rand(4, 3, 5, 5, generator=Key("x").on("cpu"))
    parts, states = torch.tensor([[0, 1], [2, 3]]), []
    for file, order in (("a", (0, 1)), ("b", (0, 1, 0))):
        for part in order:
            PolicyAttack(attack, AttackPolicy(record=AttackCache(tmp_path / file, 4)), parts[part])(
                loss, x[parts[part]], None, Key(part)
            )
        states.append((tmp_path / file).read_bytes())
    assert states[0] == states[1]
    with pytest.raises(ValueError, match="is missing"):
        AttackCache(tmp_path / "c", 4).read(attack, parts[0], x[:2])


@pytest.mark.parametrize("pixels", [(1, 4, 8), (3, 8, 8), (1, 16, 16)])
@pytest.mark.parametrize("filled", [b"\x00", b"\xff", b"\x80", b"\xde"])
def test_a_block_filled_with_one_byte_is_not_believed(pixels, filled, tmp_path):
    """Whatever the size of a row, and of the first image too, whose place is 0: a CRC of ones is ones."""
    attack, x = PGD(steps=1), torch.rand(3, *pixels, generator=Key("x").on("cpu"))
    attacks, index = AttackCache(tmp_path / "a", 3), torch.tensor([0, 1, 2])
    PolicyAttack(attack, AttackPolicy(record=attacks), index)(loss, x, None, Key(0))
    (tmp_path / "a").write_bytes(filled * (tmp_path / "a").stat().st_size)
    for image in range(3):
        with pytest.raises(ValueError, match="was damaged"):
            attacks.read(attack, index[image : image + 1], x[image : image + 1])


def test_a_row_of_another_image_is_not_believed(tmp_path):
    attack, x = PGD(steps=1), torch.rand(2, 1, 4, 8, generator=Key("x").on("cpu"))
    attacks, index = AttackCache(tmp_path / "a", 2), torch.tensor([0, 1])
    PolicyAttack(attack, AttackPolicy(record=attacks), index)(loss, x, None, Key(0))
    rows = (tmp_path / "a").read_bytes()
    half = len(rows) // 2
    (tmp_path / "a").write_bytes(rows[half:] + rows[:half])
    with pytest.raises(ValueError, match="was damaged"):
        attacks.read(attack, index, x)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_attacks_once_a_step_or_not_at_all(name):
    recipe = unshaken.recipe(f"{name}/digits")
    images = unshaken.DataSource("digits").load("train")[:8]
    counts = {"clusters": (2, 3), "true": (10,), "": ()}[recipe.method.labels]
    label = torch.stack([images.label % count for count in counts], 1) if counts else None
    net = recipe.build_network(counts)
    if recipe.method.teacher == "frozen":
        net.teacher = Network(unshaken.recipe("simclr/digits").build_network().encoder, nn.Identity())
    elif recipe.method.teacher == "momentum":
        net.teacher = recipe.build_network(counts)
    feed = BatchStream(images, recipe.views, recipe.strength, 8, 2, Key(1), label[:, 0] if counts == (10,) else label)
    _, _, batch = next(feed.after(Position()))
    calls: list[tuple[int, ...]] = []

    def counted(attack: PGD):
        def call(loss, x, y, key):
            calls.append(tuple(x.shape))
            return replace(attack, steps=1)(loss, x, y, key)

        return call

    step = Step(recipe.method, net)
    step.method = replace_attacks(recipe.method, counted)
    step(batch, Clock(0, 0, 0.5, 2), Key(0))
    assert len(calls) == attacking(recipe.method) == (name not in ("simclr", "st"))
    assert all(shape[-4] == 8 for shape in calls)


def test_attacks_in_a_hurry_reach_as_far():
    for name in METHODS:
        method = unshaken.recipe(f"{name}/cifar10").method
        fast = with_attack_steps(method, 1)
        assert type(fast) is type(method)
        if not attacking(method):
            assert fast == method
    attack = with_attack_steps(unshaken.recipe("dynacl-air/cifar10").method, 1).acl.attack
    assert (attack.steps, attack.rel_step_size) == (1, pytest.approx(5 / 4))
    assert with_attack_steps(unshaken.recipe("dynacl/cifar10").method, 1).acl.omega.every == 50
