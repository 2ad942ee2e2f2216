"""Steps of ACL and DeACL on networks of many kinds: the library's way to compute them against two plain ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.clock import paired, tell, timed
from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch
from unshaken.compute.runtime import Runtime, keep_memory
from unshaken.methods.acl import ACL
from unshaken.methods.base import Method, Step
from unshaken.methods.deacl import DeACL
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import Projection
from unshaken.nets.network import Network, seeded

ATTACK = PGD(Linf(4 / 255), steps=2, rel_step_size=0.75)
METHODS: dict[str, Method] = {"acl": ACL(ATTACK), "deacl": DeACL(ATTACK)}
SIDES = ("ours", "plain", "channels last")
"""The library's way; PyTorch's default layout; and channels last. All attack by gradients of the input alone."""


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
    """Compare in float32, on noise; the ratio of the last line is the lowest of all: best plain way / ours."""
    keep_memory()
    rows, lowest = [], None
    for case in QUICK if quick else CASES:
        for name, method in METHODS.items():
            steps = {side: prepared(case, method, side) for side in SIDES}
            seconds: dict[str, list[float]] = {side: [] for side in SIDES}
            for round_ in range(rounds + 1):
                for side, step in steps.items():
                    took, _ = timed(lambda step=step, key=Key(round_): step(key))
                    seconds[side] += [took] if round_ else []  # the first warms up
            best = min(SIDES[1:], key=lambda side: median(seconds[side]))
            result = paired(seconds, "ours", best)
            ms = {side: round(1e3 * median(times) / case.images, 2) for side, times in seconds.items()}
            row = {
                "network": case.backbone,
                "side": case.side,
                "images": case.images,
                "method": name,
                "ms_an_image": ms,
            }
            rows.append(row | {"best_plain": best, "ratio": result["ratio"], "spread": result["spread"]})
            tell(f"{case.backbone} {name}: {ms}, {result['ratio']} times the best plain way")
            lowest = result if lowest is None or result["ratio"] < lowest["ratio"] else lowest
    assert lowest is not None
    return lowest | {"rows": rows}


def prepared(case: Case, method: Method, side: str) -> Callable[[Key], None]:
    """Build a network, and return the function that makes one step: attack, loss and gradients of all weights."""
    backbone = Backbone(case.backbone, image_size=case.side)
    encoder = seeded(backbone.build, Key(0))
    taught = method.teacher == "frozen"
    teacher = Network(copy.deepcopy(encoder), torch.nn.Identity()).requires_grad_(False) if taught else None
    head = torch.nn.Identity() if taught else seeded(lambda: Projection().build(encoder.features), Key(1))
    net = with_routes(Network(encoder, head), method.routes)
    net.teacher = teacher
    if side == "ours":
        Runtime("cpu").prepare(net)
    elif side == "channels last":
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    shape = (case.images, 3, case.side, case.side)
    views = torch.rand((method.views, *shape), generator=Key(1).on("cpu"))
    batch = Batch(views, views[0], None, torch.arange(case.images))
    step = Step(method, net).train()

    def once(key: Key) -> None:
        step.zero_grad(set_to_none=True)
        step(batch, Clock(0, 0, 0.0, 2), key)["loss"].backward()

    return once
