"""Steps of ACL and DeACL on networks of many kinds: the library's way to compute them against two plain ones.

The library's is that which a long run finds by its trial.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.clock import paired, tell, timed
from bench.step import LONG_RUN, sides
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch
from unshaken.compute.runtime import Runtime, keep_memory
from unshaken.compute.ways import Way
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method, Step
from unshaken.methods.deacl import DeACL
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection
from unshaken.nets.network import Network, seeded
from unshaken.train.computation_trial import Training, chosen_computation

ATTACK = PGD(Linf(4 / 255), steps=2, rel_step_size=0.75)
METHODS: dict[str, Method] = {"acl": ACL(ATTACK), "deacl": DeACL(ATTACK)}
PLAIN: dict[str, tuple[Way, ...]] = {"plain": ("plain",), "channels last": ("channels-last",)}
"""PyTorch's own layers, in its default layout and channels last. Attacks differentiate the input alone there too."""


@dataclass(frozen=True)
class Case:
    """A network, the side of its images, and the number of images in a step."""

    backbone: str
    side: int
    images: int


CASES = (
    Case("resnet18", 32, 16),
    Case("wrn-10-2", 32, 32),
    Case("wrn-28-10", 32, 2),
    Case("timm/tf_efficientnet_lite0", 96, 16),
    Case("timm/mobilenetv2_100", 96, 16),
    Case("timm/vit_small_patch16_224", 224, 2),
)
QUICK = (Case("resnet-small", 8, 4), Case("timm/mobilenetv2_035", 32, 2))


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Compare on noise, in each precision of the processor. The lowest ratio, best plain way / ours, is the result."""
    keep_memory()
    rows, results = [], []
    for case, name, precision in product(QUICK if quick else CASES, METHODS, sides()):
        row, result = measured(case, name, precision, rounds)
        tell(f"{case.backbone} {name} {precision}: {row['ms_an_image']}, {row['ratio']} times the best plain way")
        rows, results = [*rows, row], [*results, result]
    return min(results, key=lambda result: result["ratio"]) | {"rows": rows}


def measured(case: Case, name: str, precision: Any, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Time the steps of all sides in turn. Return a row of the table, and ours against the best plain way."""
    how = {side: Runtime("cpu", precision, computation=ways) for side, ways in PLAIN.items()}
    how["ours"] = chosen(case, METHODS[name], precision)
    steps = {side: prepared(case, METHODS[name], runtime) for side, runtime in how.items()}
    seconds: dict[str, list[float]] = {side: [] for side in how}
    for round_ in range(rounds + 1):
        for side, step in steps.items():
            took, _ = timed(lambda step=step, key=Key(round_): step(key))
            seconds[side] += [took] if round_ else []  # the first warms up
    best = min(PLAIN, key=lambda side: median(seconds[side]))
    result = paired(seconds, "ours", best)
    row = {
        "network": case.backbone,
        "side": case.side,
        "images": case.images,
        "method": name,
        "precision": precision,
        "computation": " ".join(how["ours"].ways),
        "ms_an_image": {side: round(1e3 * median(times) / case.images, 2) for side, times in seconds.items()},
        "best_plain": best,
        "ratio": result["ratio"],
        "spread": result["spread"],
    }
    return row, result


def chosen(case: Case, method: Method, precision: Any) -> Runtime:
    """Return the computation that a long run of this step finds by its trial."""
    training = Training(network(case, method), method, LONG_RUN, case.images, (3, case.side, case.side))
    runtime, line = chosen_computation(training, Runtime("cpu", precision))
    tell(line)
    return runtime


def network(case: Case, method: Method) -> Network:
    """Return an untrained network for a method, with a teacher if it has one."""
    backbone = Backbone(case.backbone, image_size=case.side)
    encoder = seeded(backbone.build, Key(0))
    taught = method.teacher == "frozen"
    teacher = Network(copy.deepcopy(encoder), torch.nn.Identity()).requires_grad_(False) if taught else None
    head = torch.nn.Identity() if taught else seeded(lambda: Projection().build(encoder.features), Key(1))
    net = with_routes(Network(encoder, head), method.routes)
    net.teacher = teacher
    return net


def prepared(case: Case, method: Method, runtime: Runtime) -> Callable[[Key], None]:
    """Build a network, and return the function that makes one step: attack, loss and gradients of all weights."""
    net = network(case, method)
    runtime.prepare(net)
    shape = (case.images, 3, case.side, case.side)
    views = torch.rand((method.views, *shape), generator=Key(1).on("cpu"))
    batch = Batch(views, views[0], None, torch.arange(case.images))
    step = Step(method, net).train()

    def once(key: Key) -> None:
        step.zero_grad(set_to_none=True)
        step(batch, Clock(0, 0, 0.0, 2), key)["loss"].backward()

    return once
