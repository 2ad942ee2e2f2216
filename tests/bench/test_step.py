"""The literal steps are the library's: loss, gradients, the weights after them; and they take more operations."""

from dataclasses import replace

import pytest
import torch
from bench.literal.step import Literal
from bench.step import SIDES, Ours, flat, literal, noise, operations
from compared import compared

import unshaken
from unshaken.base.rng import Key
from unshaken.base.types import Batch
from unshaken.methods.air import AIR
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.attack_policy import replace_attacks


def small(name: str, steps: int = 0) -> Pretrain:
    """Attacks of so many steps. AIR's terms, which hardly weigh in a gradient, weigh as much as the others."""
    recipe = unshaken.recipe(f"{name}/digits")
    method = replace_attacks(recipe.method, lambda attack: replace(attack, steps=steps))
    if isinstance(method, AIR):
        method = replace(method, lambda1=300.0, lambda2=300.0)
    return replace(recipe, method=method)


def batch() -> Batch:
    views = torch.rand(2, 12, 1, 8, 8, generator=Key("views").on("cpu"))
    return Batch(views, views.mean(0), None, torch.arange(12))


@pytest.mark.parametrize("name", ["acl", "acl-air"])
def test_a_step_from_equal_random_starts(name):
    recipe = small(name)
    net, seen, key = recipe.build_network(), batch(), Key(3)
    slow, fast = literal(recipe, net), Ours(recipe, net, SIDES["float32"])
    x_adv = slow.attacked(seen.views, noise(key))
    loss = slow.backward(x_adv, seen.views, seen.image)
    terms = fast.backward(seen, key)
    assert float(terms["loss"].detach()) == pytest.approx(loss, rel=1e-5)
    assert torch.cosine_similarity(flat(slow.net), flat(fast.step.net), dim=0) > 1 - 1e-6
    # a bias before a batch norm has no gradient but rounding, which LARS scales up
    real = [k for k, p in enumerate(slow.net.parameters()) if float(p.grad.norm()) > 1e-4]
    assert len(real) == len(slow.buffers) - 1
    slow.move(0.1), fast.rule.step()
    assert close(fast, slow, real, 1e-6)
    for _ in range(2):  # the momentum too
        slow.update(seen.views, seen.image, noise(key), 0.1)
        fast.update(seen, key)
    assert close(fast, slow, real, 2e-3)


def close(fast: Ours, slow: Literal, real: list[int], within: float) -> bool:
    mine, theirs = (list(net.parameters()) for net in (fast.step.net, slow.net))
    return all(torch.allclose(mine[k], theirs[k], rtol=1e-3, atol=within) for k in real)


def test_both_terms_of_air_are_in_it():
    recipe, net, seen = small("acl-air"), small("acl-air").build_network(), batch()
    losses = []
    for method in (recipe.method, replace(recipe.method, lambda1=0.0), replace(recipe.method, lambda2=0.0)):
        losses.append(
            float(Ours(replace(recipe, method=method), net, SIDES["float32"]).backward(seen, Key(3))["loss"].detach())
        )
    assert min(abs(losses[0] - losses[1]), abs(losses[0] - losses[2])) > 1e-3


@pytest.mark.parametrize(("name", "least"), [("acl", 1.31), ("acl-air", 1.28)])
def test_operations_are_counted(name, least):
    """5 of 21 passes of a view through the network are gradients of weights that nobody wants."""
    found = operations(small(name, 5), small(name, 5).build_network(), batch())
    for side in SIDES:
        assert found[f"{side}_ratio"] == pytest.approx(found["literal"] / found[side])
        assert least < found[f"{side}_ratio"] < 1.35


@pytest.mark.extra
def test_the_comparison_ends_with_its_numbers():
    result = compared("air-step", "--quick", "--rounds", "2")
    assert (result["name"], result["n"], result["images"]) == ("air-step", 2, 16)
    assert result["numbers"]["float32"]["loss_differs_by"] < 1e-3
    assert result["numbers"]["float32"]["gradients_cosine"] > 0.9
    assert {"ratio", "spread", "ours_s", "baseline_s", "world"} <= set(result)
