"""One step of pre-training in float32 and bf16 against the published step: time, operations, and results."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unshaken
from bench.clock import as_it_was, paired, tell, timed
from bench.literal.selection import Attack
from bench.literal.step import Literal
from bench.operations import counted
from bench.selection import setting, taught
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock, Constant
from unshaken.base.types import Batch
from unshaken.compute.runtime import Runtime, keep_memory, multiplies_bf16
from unshaken.data.images import Images
from unshaken.methods.acl import ACL
from unshaken.methods.air import AIR
from unshaken.methods.base import Step
from unshaken.nets.network import Network
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.batches import BatchStream, Position
from unshaken.train.computation_trial import Training, chosen_computation

CLOCK = Clock(0, 0, 0.0, 2)
RATE = 0.1
SIDES = {"float32": Runtime("cpu"), "bf16": Runtime("cpu", "bf16")}
LONG_RUN = 1e8
"""Images of the run whose computation is compared: so many that its trial may take all of its time."""
SECONDS = 190.0
"""Processor seconds of all timed steps; the number of images is chosen so that they suffice."""
MOST = 64
LEARNED = (60, 20)
"""Steps of the network whose results are compared: against noise, and against one-step attacks."""


def sides() -> list[str]:
    """Return what is compared here: bf16 only where the processor has it, because elsewhere it is imitated, slowly."""
    return [side for side in SIDES if side == "float32" or multiplies_bf16("cpu")]


def chosen(recipe: Pretrain, net: Network, count: int, shape: tuple[int, int, int]) -> dict[str, Runtime]:
    """Return the computation of each side that a long run with such batches finds by its trial."""
    found = {}
    for side in sides():
        found[side], line = chosen_computation(Training(net, recipe.method, LONG_RUN, count, shape), SIDES[side])
        tell(line)
    return found


def compare(method: str, data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Compare time and operations on the recipe's network, and results on a small one that has learned a little.

    Results of a network that has learned nothing differ by rounding noise; time does not depend on the weights.
    `quick` uses digits and a small network for both.
    """
    size, images = setting(data, quick)
    if not quick:  # resnet18 would learn for ten minutes
        recipe = replace(size.recipe, backbone=replace(size.recipe.backbone, name="wrn-10-2"))
        size = replace(size, recipe=recipe, batch=8, steps=LEARNED[0])
    small = taught(size, images, attacked=size.steps // 3 if quick else LEARNED[1])
    recipe = unshaken.recipe(f"{method}/{'digits' if quick else 'cifar10'}")
    net = small if quick else recipe.build_network()
    count = 16 if quick else affordable(recipe, net, images, rounds)
    feed = BatchStream(images, recipe.views, Constant(1.0), count, rounds + 1, Key(7))
    _, _, batch = next(feed.after(Position()))
    how = SIDES if quick else chosen(recipe, net, count, tuple(batch.views.shape[-3:]))  # pyright: ignore[reportArgumentType]
    how = {side: how[side] for side in sides()}
    result = numbers(recipe, small, batch, how) | {"numbers_of": size.recipe.backbone.name, "images": count}
    result["computation"] = {side: " ".join(one.ways) for side, one in how.items()}
    tell("operations")
    result["gigaflop_an_image"] = operations(recipe, net, few(images, recipe, 2))
    seconds = race(recipe, net, feed, rounds, how)
    found = {side: paired({name: seconds[name] for name in ("literal", side)}, side, "literal") for side in sides()}
    last = list(found)[-1]
    rest = {"float32": {k: v for k, v in found["float32"].items() if k != "world"}} if last != "float32" else {}
    return found[last] | {"side": last} | rest | result


def few(images: Images, recipe: Pretrain, count: int) -> Batch:
    """Return the first batch of so many images."""
    feed = BatchStream(images, recipe.views, Constant(1.0), count, 1, Key(7))
    return next(feed.after(Position()))[2]


def affordable(recipe: Pretrain, net: Network, images: Images, rounds: int) -> int:
    """Return the images of a batch, at most MOST, with which all rounds take about SECONDS."""
    batch, slow = few(images, recipe, 8), literal(recipe, net)
    slow.update(batch.views, batch.image, noise(Key(0)), RATE)
    each = timed(lambda: slow.update(batch.views, batch.image, noise(Key(0)), RATE))[0] / 8
    count = MOST  # float32 takes about two thirds of the literal seconds, bf16 a third
    while count > 4 and count * each * (rounds + 1) * (1 + 2 / 3 + (len(sides()) - 1) / 3) > SECONDS:
        count //= 2
    tell(f"{each:.2f} s an image in the literal form: batches of {count}")
    return count


def race(
    recipe: Pretrain, net: Network, feed: BatchStream, rounds: int, how: dict[str, Runtime]
) -> dict[str, list[float]]:
    """Return the seconds of each side's steps, which alternate; a first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {"literal": [], **{side: [] for side in how}}
    slow = literal(recipe, net)
    fast = {side: Ours(recipe, net, runtime) for side, runtime in how.items()}
    for round_, (_, _, batch) in zip(range(rounds + 1), feed.after(Position(epoch=1)), strict=False):
        key = Key(round_)
        as_it_was()
        took = {"literal": timed(lambda b=batch, k=key: slow.update(b.views, b.image, noise(k), RATE))[0]}
        keep_memory()
        for side, ours in fast.items():
            took[side] = timed(lambda o=ours, b=batch, k=key: o.update(b, k))[0]
        tell("  ".join(f"{side} {one:.3f} s" for side, one in took.items()))
        for side, one in took.items():
            seconds[side] += [one] if round_ else []
    return seconds


def numbers(recipe: Pretrain, net: Network, batch: Batch, how: dict[str, Runtime]) -> dict[str, Any]:
    """Compare the loss, the signs of the perturbations and the gradients with the literal ones, from one random start.

    Each side's gradient is taken at its own x̃.
    """
    key, slow, found = Key(11), literal(recipe, net), {}
    x_adv = slow.attacked(batch.views, noise(key))
    loss = slow.backward(x_adv, batch.views, batch.image)
    gradient = flat(slow.net)
    for side, runtime in how.items():
        ours = Ours(recipe, net, runtime)
        terms = ours.backward(batch, key)
        mine = acl(recipe).adversarial(Ours(recipe, net, runtime).step.net, batch.views, key)
        found[side] = {
            "loss_differs_by": abs(float(terms["loss"].detach()) - loss) / abs(loss),
            "signs_agree": float(((mine - batch.views).sign() == (x_adv - batch.views).sign()).float().mean()),
            "gradients_cosine": float(torch.cosine_similarity(flat(ours.step.net), gradient, dim=0)),
        }
        tell(f"{side}: {found[side]}")
    return {"numbers": found, "loss": loss}


def operations(recipe: Pretrain, net: Network, batch: Batch) -> dict[str, float]:
    """Count the matrix products and convolutions of a step, in 10⁹ operations per image."""
    slow = literal(recipe, net)
    found = {"literal": counted(lambda: slow.update(batch.views, batch.image, noise(Key(0)), RATE))}
    for side, runtime in SIDES.items():
        ours = Ours(recipe, net, runtime)
        found[side] = counted(lambda ours=ours: ours.update(batch, Key(0)))
    found = {side: count / len(batch.index) / 1e9 for side, count in found.items()}
    return found | {f"{side}_ratio": found["literal"] / found[side] for side in SIDES}


@dataclass(eq=False)
class Ours:
    """A training step as in a run: method, optimiser, and a network prepared by the runtime."""

    recipe: Pretrain
    net: Network
    runtime: Runtime

    def __post_init__(self) -> None:
        net = copy.deepcopy(self.net)
        self.runtime.prepare(net)
        self.step = Step(self.recipe.method, net)
        self.rule = self.recipe.optimizer.build(self.step)
        self.rule.param_groups[0]["lr"] = RATE

    def update(self, batch: Batch, key: Key) -> None:
        self.backward(batch, key)
        self.rule.step()
        self.rule.zero_grad()

    def backward(self, batch: Batch, key: Key) -> dict[str, Tensor]:
        terms = self.step(batch, CLOCK, key)
        terms["loss"].backward()
        return terms


def literal(recipe: Pretrain, net: Network) -> Literal:
    attack, method = acl(recipe).attack, recipe.method
    eps = attack.ball.eps
    how = Attack(eps, attack.steps, attack.rel_step_size * eps)
    return Literal(net, how, acl(recipe).tau, method.lambda1 if isinstance(method, AIR) else 0.0)


def acl(recipe: Pretrain) -> ACL:
    return recipe.method.acl if isinstance(recipe.method, AIR) else recipe.method


def noise(key: Key) -> torch.Generator:
    """Return the random start of an attack, equal on both sides."""
    return (key / "attack").on("cpu")


def flat(net: Network) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).double()
