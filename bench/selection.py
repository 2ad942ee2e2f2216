"""A coreset selection by RCS: exact and fast settings against the published procedure, on a briefly trained network."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

import unshaken
from bench.clock import paired, tell, timed
from bench.literal.selection import Attack, Literal
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant, Schedule, WarmupCosine
from unshaken.base.serialize import short_hash
from unshaken.compute.runtime import Runtime
from unshaken.coreset.gradients import Gradients
from unshaken.coreset.rcs import RCS, gradient
from unshaken.coreset.selector import split
from unshaken.data.images import Images
from unshaken.methods.base import Step
from unshaken.nets.checkpoint import read_tensors, write_tensors
from unshaken.nets.network import Network
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.attack_cache import AttackCache
from unshaken.train.attack_policy import AttackPolicy, replace_attacks, with_attack_steps
from unshaken.train.batches import BatchStream, Position
from unshaken.train.optim import AdamW
from unshaken.train.selection_objective import CachedObjective, MethodObjective, objective_of

RANDOM_SETS = 10
KEPT = Path(__file__).parent / "kept"


@dataclass(frozen=True)
class Size:
    """The images to select from, the recipe, and the training steps before."""

    recipe: Pretrain
    images: int
    held: int
    batch: int
    steps: int
    fraction: float = 0.2


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Compare; `quick` uses digits and a small network. The exact settings take as long as the literal ones, so they
    run once."""
    size, images = setting(data, quick)
    net = taught(size, images)
    return summed_up([one(size, images, copy.deepcopy(net), Key(seed), seed == 1) for seed in range(1, rounds + 1)])


def setting(data: Path | None, quick: bool) -> tuple[Size, Images]:
    if quick:
        return Size(unshaken.recipe("acl/digits"), 48, 8, 8, 12), unshaken.DataSource("digits").load("train")
    if data is None:
        raise SystemExit("bench: selection looks at CIFAR-10: name the folder that has cifar10/*.parquet by --data")
    images = unshaken.DataSource(str(data / "cifar10"), size=32).load("train")
    return Size(unshaken.recipe("acl/cifar10"), 1000, 128, 16, 150), images


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of all seeds as one."""
    result = paired(sides(rows, "fast"), "fast", "literal") | {"unit": "processor seconds of a selection"}
    for name in ("exact", "fast", "recall"):
        those = [row for row in rows if name in row["same"]]
        result[name] = {
            "n": len(those),
            "ratio": paired(sides(those, name), name, "literal")["ratio"],
            "seconds": [round(row["seconds"][name], 2) for row in those],
            "gains_correlate": [round(row["correlation"][name], 4) for row in those],
            "same_picks": [round(row["same"][name], 3) for row in those],
            "advantage_kept": [round(row["kept"][name], 4) for row in those],
            "advantage_kept_mean": round(mean(row["kept"][name] for row in those), 4),
            "epochs": round(median(row["seconds"][name] / row["epoch"][name] for row in those), 3),
        }
    literal = {"seconds": [round(row["seconds"]["literal"], 2) for row in rows]}
    return result | {"literal": literal, "picks": rows[0]["picks"]}


def sides(rows: list[dict[str, Any]], name: str) -> dict[str, list[float]]:
    return {side: [row["seconds"][side] for row in rows] for side in (name, "literal")}


def one(size: Size, images: Images, net: Network, key: Key, exactly: bool) -> dict[str, Any]:
    """Run one seed: the images, an epoch of training on them, and then each selection."""
    chosen = torch.randperm(len(images), generator=(key / "images").on("cpu"))[: size.images + size.held]
    recipe, images = replace(size.recipe, seed=key.seed), images[chosen]
    x, u = split(len(images), size.held / len(images), key)
    feed = BatchStream(images, recipe.views, Constant(1.0), size.batch, 2, key, None, x)
    with tempfile.TemporaryDirectory() as folder:
        attacks = AttackCache(Path(folder) / "attacks", len(images))
        place, epoch = after_an_epoch(recipe, net, feed, attacks)

        def pose(precision: str, steps: int | None, recall: bool) -> MethodObjective:
            return problem(recipe, net, feed, place, u, key, attacks, precision, steps, recall)

        rcs = RCS(size.fraction, attack=PGD(recipe.method.attack.ball, steps=3, rel_step_size=5 / 12))
        count = round(size.fraction * len(x))
        ways = {
            "fast": lambda: (pose("bf16", 1, False), rcs),
            "recall": lambda: (pose("bf16", 1, True), rcs),
        }
        if exactly:
            ways["exact"] = lambda: (pose("float32", None, False), replace(rcs, refresh=1))
        return judged(ways, literal(net, pose("float32", None, False), rcs, recipe), count, epoch, key)


def judged(
    ways: dict[str, Callable[[], tuple[MethodObjective, RCS]]],
    slow: Literal,
    count: int,
    epoch: dict[str, float],
    key: Key,
) -> dict[str, Any]:
    """Measure the seconds of each setting, and the value of its images under the literal objective: 0 is random, 1
    literal."""
    first, _ = ways["fast"]()
    sizes, picks = [len(batch) for batch in first.batches], 0
    while sum(sizes[:picks]) < count:
        picks += 1
    took, (q, best) = timed(lambda: literally(slow, picks))
    tell(f"literal: {took:.1f} s, picks {best}")
    seconds, same, correlation, chosen = {"literal": took}, {}, {}, {"literal": best}
    r = slow.gradient(slow.distance())
    truth = torch.stack([one @ r for one in q])
    for name, way in ways.items():
        seconds[name], (problem, rcs, q_ours, found) = timed(lambda way=way: selected(way, count))
        chosen[name], same[name] = found, len(set(found) & set(best)) / picks
        gains = q_ours.along(gradient(problem.validation(problem.theta, rcs.distance, rcs.attack), problem.theta))
        correlation[name] = float(torch.corrcoef(torch.stack([gains, truth]))[0, 1])
        tell(f"{name}: {seconds[name]:.1f} s, {same[name]:.0%} of the same picks, correlation {correlation[name]:.4f}")
    rng = (key / "chance").on("cpu")
    chance = [torch.randperm(len(q), generator=rng)[:picks].tolist() for _ in range(RANDOM_SETS)]
    left = mean(slow.left(q, found) for found in chance)  # of L_RD, which is to fall
    full = left - slow.left(q, best)
    kept = {name: (left - slow.left(q, found)) / full for name, found in chosen.items()}
    tell(f"advantage over random kept: {', '.join(f'{name} {value:.3f}' for name, value in kept.items())}")
    return {
        "seconds": seconds,
        "same": same,
        "correlation": correlation,
        "kept": kept,
        "epoch": {name: epoch["float32" if name == "exact" else "bf16"] for name in ways},
        "picks": picks,
    }


def literally(slow: Literal, picks: int) -> tuple[list[Tensor], list[int]]:
    q = slow.candidates()
    return q, slow.picks(q, picks)


def selected(
    way: Callable[[], tuple[MethodObjective, RCS]], count: int
) -> tuple[MethodObjective, RCS, Gradients, list[int]]:
    """Return the objective, the selector, the gradients of the candidates, and the numbers of the selected
    mini-batches."""
    problem, rcs = way()
    seen = Remembered(problem)
    images, found = rcs.select(seen, count, Key(0)).tolist(), []
    where = {int(image): b for b, batch in enumerate(problem.batches) for image in batch}
    for image in images:
        if where[image] not in found:
            found.append(where[image])
    return problem, rcs, seen.q, found


class Remembered:
    """A selection objective that stores its gradients, so that reading them a second time takes no time."""

    def __init__(self, problem: MethodObjective) -> None:
        self.problem = problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    def gradients(self, *asked: Any) -> Gradients:
        self.q = self.problem.gradients(*asked)
        return self.q


def taught(size: Size, images: Images, attacked: int = 0) -> Network:
    """Train a network a little, in bf16 if the processor has it: on views with noise, in larger batches.

    attacked  number of additional steps with one-step attacks

    On an untrained network the gains are rounding noise, also those of the literal procedure. The network is saved
    beside the results for the next comparison.
    """
    net = size.recipe.build_network()
    file = KEPT / f"taught-{short_hash(size)}-{attacked}-{images.digest[:8]}.safetensors"
    if file.exists():
        net.load_state_dict(read_tensors(file)[0])
    else:
        learn(net, size, images, attacked)
        file.parent.mkdir(exist_ok=True)
        write_tensors(file, net.state_dict(), {"kind": "taught"})
    return net


def learn(net: Network, size: Size, images: Images, attacked: int) -> None:
    method = size.recipe.method
    noise = replace_attacks(method, lambda attack: replace(attack, steps=0))
    feed = BatchStream(images, size.recipe.views, Constant(1.0), 4 * size.batch, 100, Key(0))
    Runtime(precision="auto").prepare(net)
    step, lr = Step(noise, net), WarmupCosine(1e-3, warmup=0)
    rule = AdamW().build(step)
    for at, _, batch in feed.after(Position()):
        if at.step == size.steps + attacked:
            break
        step.method = noise if at.step < size.steps else with_attack_steps(method, 1)
        loss = update(step, rule, feed, at, batch, lr)
        if at.step % 25 == 0:
            tell(f"learning, step {at.step}: loss {loss:.3f}")
    Runtime().prepare(net.eval())


def after_an_epoch(
    recipe: Pretrain, net: Network, feed: BatchStream, attacks: AttackCache
) -> tuple[Position, dict[str, float]]:
    """Train one epoch of the recipe in bf16, in place, record its attacks, and return an epoch's seconds by precision.

    In float32 it makes only a few steps, on a copy, and scales their time to an epoch.
    """
    lr, other, place, epoch = Constant(1e-4), copy.deepcopy(net), Position(), 0.0
    Runtime(precision="bf16").prepare(net)
    step = Step(recipe.method, net)
    step.policy = AttackPolicy(record=attacks)
    rule = AdamW().build(step)
    for at, onward, batch in feed.after(place):
        if at.epoch == 1:
            break
        took, loss = timed(lambda at=at, batch=batch: update(step, rule, feed, at, batch, lr))
        place, epoch = onward, epoch + took
        if at.batch % 20 == 0:
            tell(f"the epoch before, step {at.step}: loss {loss:.3f}")
    for each in (net.eval(), other):
        Runtime().prepare(each)
    slow, step = [], Step(recipe.method, other)
    rule = AdamW().build(step)
    for at, _, batch in feed.after(Position()):
        slow.append(timed(lambda at=at, batch=batch: update(step, rule, feed, at, batch, lr))[0])
        if len(slow) == min(4, len(feed)):
            break
    return place, {"bf16": epoch, "float32": median(slow) * len(feed)}


def update(step: Step, rule: torch.optim.Optimizer, feed: BatchStream, at: Position, batch: Any, lr: Schedule) -> float:
    for group in rule.param_groups:
        group["lr"] = lr(feed.clock(at))
    loss = step(batch, feed.clock(at), feed.key / "step" / at.step)["loss"]
    loss.backward()
    rule.step()
    rule.zero_grad()
    return float(loss.detach())


def problem(
    recipe: Pretrain,
    net: Network,
    feed: BatchStream,
    place: Position,
    held: Tensor,
    key: Key,
    attacks: AttackCache,
    precision: str,
    steps: int | None,
    recall: bool,
) -> MethodObjective:
    """Make the objective on the mini-batches and views of the last epoch, and with `recall` on its attacks too."""
    net = copy.deepcopy(net)
    Runtime(precision=precision).prepare(net)
    made = objective_of(
        Step(recipe.method, net), feed, place, feed.index, held, key, None, steps, CachedObjective(feed, attacks)
    )
    return made if recall else replace(made, candidates=tuple(replace(c, attacks=None) for c in made.candidates))


def literal(net: Network, problem: MethodObjective, rcs: RCS, recipe: Pretrain) -> Literal:
    attack, eps = recipe.method.attack, recipe.method.attack.ball.eps
    seen = lambda b: problem.feed.make_batch(problem.candidates[b].index, 1.0, problem.candidates[b].views).views  # noqa: E731
    start = lambda b: problem.key / "validation" / 0 if b is None else problem.key / "loss" / b / "attack"  # noqa: E731
    return Literal(
        net,
        len(problem.batches),
        seen,
        problem.feed.images.floats(problem.held),
        lambda b: start(b).on("cpu"),
        Attack(eps, attack.steps, attack.rel_step_size * eps),
        Attack(eps, rcs.attack.steps, rcs.attack.rel_step_size * eps),
        recipe.method.tau,
        rcs.eta,
    )
