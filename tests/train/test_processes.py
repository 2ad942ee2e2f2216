"""Processes that share each batch train as one does: every kind of run, in float64, with attacks, for five updates."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import normalize

import unshaken
import unshaken.recipes.autolora
from processes import launched_together, together
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.distributed import processes
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.shared_batch import sharing
from unshaken.base.types import Batch, LossTerms
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.losses import contrastive
from unshaken.losses.contrastive import _NTXent as NTXent
from unshaken.losses.contrastive import _SharedNTXent as SharedNTXent
from unshaken.methods.base import Method, Step
from unshaken.methods.fare import FARE
from unshaken.methods.supervised import AFF
from unshaken.nets.dual_bn import single_route
from unshaken.nets.heads import zero_classifier
from unshaken.nets.lora import with_lora
from unshaken.nets.network import Encoder, Network, seeded
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.robust import OBJECTIVES, robust_recipe
from unshaken.runs.pretrain import equipped
from unshaken.train.attack_policy import replace_attacks
from unshaken.train.batch_statistics import take_weights
from unshaken.train.batches import BatchStream, Position
from unshaken.train.guard import Guard
from unshaken.train.loop import Execution, Loop
from unshaken.train.signals import SignalGuard
from variants import variants

COUNT, N, UPDATES = 31, 7, 5
"""Batches of 7 images, and one of 3, of which one of four processes has none."""
NAMES = [name for name in RECIPES if isinstance(unshaken.recipe(f"{name}/digits"), Pretrain)]
NAMES = [name for name in NAMES if not name.endswith(("-rcs", "-plain", "dynacl-air", *OBJECTIVES[1:]))]
"""Those whose methods differ in more than their schedules. The objectives of robustify are a part of their own."""


FLOAT = torch.Tensor.float


class Doubled(BatchStream):
    """Batches in float64."""

    def make_batch(self, *given: Any, **how: Any) -> Batch:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", FLOAT)
            batch = super().make_batch(*given, **how)
        return replace(batch, views=batch.views.double(), image=batch.image.double())


@dataclass(frozen=True)
class Outside(Method):
    """A method of a user's own with parameters that are used on gathered embeddings, or on none."""

    def loss(self, h: Network, batch: Batch, clock: Any, key: Key) -> LossTerms:
        z, predictor = h(batch.views, "clean"), h.predictor
        return {"loss": contrastive.nt_xent(predictor(z).sin() + z, 0.5) + predictor.weight.square().sum()}


@dataclass(frozen=True)
class Unsound(Method):
    """FARE that is no better than a constant answer in two updates, after two in which it is."""

    fare: FARE = FARE(PGD(Linf(0.1), steps=1))

    routes: ClassVar = ("shared",)
    views: ClassVar = 1
    teacher: ClassVar = "frozen"
    score: ClassVar = "robust"

    def loss(self, h: Network, batch: Batch, clock: Any, key: Key) -> LossTerms:
        return self.fare.loss(h, batch, clock, key) | {"constant": torch.tensor(0.0 if clock.step in (2, 3) else 9e9)}


def pretraining(recipe: Pretrain, images: Images, predictor: bool = False) -> tuple[Step, Doubled]:
    """A pre-training before its first step, with its average and guard, and a teacher if it has one."""
    method = in_one_step(recipe.method)
    counts = {"clusters": (2, 3), "true": (10,), "": ()}[method.labels]
    label = torch.stack([images.label % count for count in counts], 1) if counts else None
    label = images.label if method.labels == "true" else label
    net = recipe.build_network(counts)
    if predictor:
        net.predictor = seeded(lambda: nn.Linear(64, 64), Key(2))
    if method.teacher == "frozen":
        net.teacher = Network(copy.deepcopy(unshaken.recipe("simclr/digits").build_network().encoder), nn.Identity())
    elif method.teacher == "momentum":
        net.teacher = copy.deepcopy(net)
    feed = Doubled(images, recipe.views, Constant(1.0), N, 3, Key(1), label)
    return equipped(Step(method, net.double()), replace(recipe, epochs=3), feed), feed


def tuning(method: Method, images: Images, views: Any, encoder: Encoder) -> tuple[Step, Doubled]:
    """A classifier on an encoder before its first step."""
    net = Network(encoder, zero_classifier(encoder.features, 10))
    return Step(in_one_step(method), net.double()), Doubled(images, views, Constant(1.0), N, 3, Key(1), images.label)


def autolora(images: Images) -> tuple[Step, Doubled]:
    recipe = unshaken.recipes.autolora.autolora(unshaken.DataSource("digits"))
    encoder = with_lora(pretrained(), Key(1), recipe.method.rank, recipe.method.alpha)
    step, feed = tuning(recipe.method, images, recipe.views, encoder)
    step.net.memory.accuracy.fill_(0.7)
    return step, feed


def pretrained() -> Encoder:
    """An encoder with one route, as stages after a pre-training get it."""
    return single_route(unshaken.recipe("acl/digits").build_network().encoder, "adv")


def in_one_step(method: Method) -> Method:
    return replace_attacks(method, lambda attack: replace(attack, steps=1))


def named(name: str) -> Any:
    return unshaken.recipe(f"{name}/digits")


def robust(objective: str, **fields: Any) -> Pretrain:
    """The recipe of `unshaken robustify`."""
    digits = named("simclr")
    return replace(robust_recipe(objective, "teacher", digits.backbone, digits.data), **fields)


LP_AFF = named("dynacl++")
TABLE: dict[str, Callable[[Images], tuple[Step, Doubled]]] = {
    **{name: partial(pretraining, named(name)) for name in NAMES},
    # groups of 3 and 4 images, of which two processes or more share one
    "ghost batches": partial(pretraining, replace(named("acl"), ghost_batch=3)),
    # a route that is in no loss, and attacks with restarts, whose loss is that of each image
    "aff": partial(
        pretraining,
        replace(named("trades"), method=AFF(PGD(restarts=2, init="gaussian"), natural="adv", target="clean")),
    ),
    "lp-aff, probe": lambda images: tuning(
        named("dynacl++").probe.method, images, named("dynacl++").views, pretrained()
    ),
    "lp-aff, tune": lambda images: tuning(named("dynacl++").tune.method, images, named("dynacl++").views, pretrained()),
    "autolora": autolora,
    **{f"robustify, {name}": partial(pretraining, robust(name)) for name in OBJECTIVES},
    "a guard rolls back": partial(pretraining, robust("fare", method=Unsound(), guard=Guard(every=2, grace=0.0))),
    "a layer after the network": partial(pretraining, replace(named("simclr"), method=Outside()), predictor=True),
}
"""What is trained, by name."""
FOUR = ["acl", "ghost batches", "a layer after the network"]
MAIN = ["acl", "ghost batches", "lp-aff, tune", "robustify, lore", "a guard rolls back"]


@pytest.fixture(autouse=True)
def nothing_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library takes float32, float64 stays."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def trained(name: str) -> dict[str, list[torch.Tensor]]:
    """Five updates by SGD: the terms, the gradients, and at the end everything that the step holds."""
    step, feed = TABLE[name](unshaken.DataSource("digits", limit=COUNT).load("train"))
    step.double()  # a guard's sums
    runtime = Runtime("cpu")
    fabric = runtime.open("together")
    runtime.prepare(step.net)
    for part in step.net.modules():
        if isinstance(part, Network):
            part.computation.folder.precision = torch.float64
    rule = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], 0.05, momentum=0.9)
    run = SimpleNamespace(path=Path(name), spend=lambda *_: None)
    loop = Loop(step, feed, rule, Execution(run, fabric), Position(), SignalGuard(), lambda *_: None)
    found: dict[str, list[torch.Tensor]] = {"terms": [], "gradients": []}
    keep = loop.stepper.step

    def kept(*given: Any, **how: Any) -> Any:
        grads = [p.grad.flatten() for p in step.parameters() if p.grad is not None]
        found["gradients"].append(torch.cat(grads).clone())
        return keep(*given, **how)

    loop.stepper.step = kept
    for position, _, batch in some(feed):
        loop._update(batch, feed.clock(position), position, 0.05)
        found["terms"].append(torch.stack([value.double() for value in loop.meter.terms.values()]))
        loop._watch(feed.clock(position))
    take_weights(step, feed)
    if name == "a guard rolls back":
        assert int(step.guard.rollbacks) == 1
    return found | {"state": [value.double() for value in step.state_dict().values()]}


def some(feed: BatchStream) -> Iterator[tuple]:
    yield from (each for each, _ in zip(feed.after(Position()), range(UPDATES), strict=False))


def apart(one: dict[str, list[torch.Tensor]], other: dict[str, list[torch.Tensor]]) -> float:
    """The largest difference, relative to the largest value of the same kind."""
    assert [len(values) for values in one.values()] == [len(values) for values in other.values()]
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1))
        for kind in one
        for a, b in zip(one[kind], other[kind], strict=True)
        if a.numel()
    )


def detached(z: torch.Tensor, tau: float) -> torch.Tensor:
    """NT-Xent whose gradient does not reach keys: nearly that of NT-Xent while nothing is learned, and wrong after."""
    u = normalize(z, dim=-1).flatten(0, 1)
    s = (u @ u.detach().T / tau).masked_fill(torch.eye(len(u), dtype=torch.bool), -torch.inf)
    return (s.logsumexp(1) - s.diagonal(len(u) // 2).repeat(2)).mean()


def compared(alone: dict[str, dict], own_rows_from: int, rank: int) -> None:
    contrastive.SHARED_FROM, contrastive.CPU_BLOCK = own_rows_from, 3
    for name, expected in alone.items():
        import time

        t = time.process_time()
        off = apart(trained(name), expected)
        import sys

        print(name, off, time.process_time() - t, file=sys.__stderr__)
        assert off < 1e-10, f"{name}: {off:.1e} apart"
    if "acl" in alone:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unshaken.methods.acl.nt_xent", detached)
            assert apart(trained("acl"), alone["acl"]) > 1e-4
    assert processes().count > 1


@pytest.mark.parametrize(
    ("count", "names"),
    variants(
        [
            (2, MAIN),
            (2, [name for name in TABLE if name not in MAIN]),
            (4, ["acl", "ghost batches", "a layer after the network"]),
        ],
        main=[(2, MAIN)],
    ),
)
def test_processes_train_as_one(count, names):
    """Terms, gradients, statistics and weights. A loss whose gradient does not reach keys is found out.

    Four processes compute their own rows of NT-Xent, as they do in large batches.
    """
    alone = {name: trained(name) for name in names}
    launched_together(count, partial(compared, alone, 1 if count == 4 else 4096))


def kept(rank: int) -> None:
    """What a shared NT-Xent saves for its gradient, and the similarities it computes, are the share of own rows."""
    us, z = processes(), torch.randn(2, 600, 8, generator=torch.Generator().manual_seed(1))
    rows, saved, blocks = us.rows(600), [], contrastive._own_blocks
    seen: list[int] = []
    contrastive._own_blocks = lambda *given: (seen.append(s.numel()) or (at, s) for at, s in blocks(*given))
    losses, grads = [], []
    for shared in (None, rows):
        own = normalize(z if shared is None else rows.own(z, 1), dim=-1).requires_grad_()
        u = own if shared is None else rows.whole(own, 1)
        with sharing(shared), saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
            losses.append(NTXent.apply(u, 0.5) if shared is None else SharedNTXent.apply(u, 0.5, shared))
        grads += torch.autograd.grad(losses[-1], own)
    assert torch.allclose(*losses, rtol=1e-6)
    assert torch.allclose(grads[1], rows.own(grads[0], 1), atol=1e-8)
    assert saved == [2 * 600 * 8, 2 * 600 * 8 // us.count]
    assert sum(seen) == 2 * (2 * 600) ** 2 // us.count  # once for the loss, once for its gradient


def test_nt_xent_by_own_rows_saves_its_share(tmp_path):
    together(3, kept, tmp_path / "meet")
