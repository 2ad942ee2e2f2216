"""AutoAttack: pyautoattack against ours, in float32 and with a bf16 search that float32 verifies.

The network has six convolutions, 77 MFLOP per image, and is trained against one-step attacks. The first test images are
one batch; ε = 8/255, `standard`. Both sides get a network in eval mode whose parameters need no gradient:
pyautoattack in PyTorch's own layout, ours as the runtime prepares it, its batch norms folded into the convolutions.
"""

from __future__ import annotations

import copy
import logging
import re
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.clock import paired, tell, timed
from unshaken.attacks.autoattack import AutoAttack
from unshaken.attacks.ball import Ball, Linf
from unshaken.attacks.base import Model, wrong
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.compute.bn_folding import fold_batch_norms
from unshaken.compute.runtime import Runtime, multiplies_bf16
from unshaken.compute.ways import FIXED, WINOGRAD
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.nets.network import Encoder, Network, Normalize, evaluating, seeded

EPS = 8 / 255
WAYS = (*FIXED, WINOGRAD)
"""The computation of our sides: `--runtime.computation` of an evaluation, which makes no trial."""
Counts = dict[str, int]
"""Robust images after each stage."""


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    n, steps = (12, 60) if quick else (200, 400)
    train, test = (_images(data, split) for split in ("train", "test"))
    net = trained(train, steps)
    x, y = test.floats(slice(n)), test.label[:n]
    best = "bf16" if multiplies_bf16("cpu") else "float32"  # elsewhere bf16 is imitated, slowly
    seconds: dict[str, list[float]] = {side: [] for side in dict.fromkeys(("pyautoattack", "float32", best))}
    robust: dict[str, list[Counts]] = {side: [] for side in seconds}
    for seed in range(1, rounds + 1):
        sides = {
            "pyautoattack": partial(theirs, lambda x: net(x, "clean"), x, y, Linf(EPS), seed),
            "float32": partial(ours, model(net), x, y, Linf(EPS), seed),
        }
        if best == "bf16":
            sides["bf16"] = partial(ours, model(net, "bf16"), x, y, Linf(EPS), seed)
        for side, work in sides.items():
            took, counts = timed(work)
            seconds[side].append(took)
            robust[side].append(counts)
            tell(f"{side:<13} {took:7.1f} s  {counts}")
    result = paired(seconds, ours=best, baseline="pyautoattack") | {"side": best}
    float32 = paired(seconds, ours="float32", baseline="pyautoattack")
    float32.pop("world")
    about = {"images": n, "robust": robust, "computation": " ".join(WAYS)}
    return result | ({"float32": float32} if best == "bf16" else {}) | about


def theirs(net: Any, x: Tensor, y: Tensor, ball: Ball, seed: int, version: str = "standard") -> Counts:
    import pyautoattack

    said = _Sayings()
    norm = "Linf" if isinstance(ball, Linf) else "L2"
    attack = pyautoattack.AutoAttack(net, norm=norm, eps=ball.eps, seed=seed, version=version)
    attack.logger = logging.Logger("said", logging.DEBUG)
    attack.logger.addHandler(said)
    attack.run_standard_evaluation(x, y, batch_size=len(x))
    found = re.findall(r"robust accuracy after ([A-Z-]+): ([\d.]+)%", "\n".join(said.lines))
    counts = {name.lower(): round(float(percent) * len(x) / 100) for name, percent in found}
    # without survivors it does not print the attacks that it skips
    return {name: counts.get(name, 0) for name in ("apgd-ce", "apgd-t", "fab-t", "square")}


class _Sayings(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def ours(model: Model, x: Tensor, y: Tensor, ball: Ball, seed: int) -> Counts:
    counts = {}
    with torch.no_grad():
        standing = ~wrong(model.exact(x), y)
    for name, attack in AutoAttack(ball).stages:
        began = time.process_time()
        x, y = x[standing], y[standing]
        x_adv = attack(model, x, y, Key(seed) / name)
        with torch.no_grad():
            standing = ~wrong(model.exact(x_adv), y) if len(x) else standing[:0]
        counts[name] = int(standing.sum())
        tell(f"  {name:<8} {time.process_time() - began:6.1f} s  {counts[name]} robust")
    return counts


def model(net: Network, precision: Any = "float32") -> Model:
    """The network with folded batch norms in the runtime's layout, and one of lower precision for the search."""

    def prepared(precision: Any) -> Any:
        copied = copy.deepcopy(net)
        Runtime("cpu", precision, computation=WAYS).prepare(copied)  # pyright: ignore[reportArgumentType]
        copied = fold_batch_norms(copied)
        return lambda x: copied(x, "clean")

    exact = prepared("float32")
    return Model(exact) if precision == "float32" else Model(prepared(precision), exact)


def network() -> Network:
    layers: list[nn.Module] = []
    channels = 3
    for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    normalize = Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    return Network(Encoder(normalize, nn.Sequential(*layers), channels), nn.Linear(channels, 10))


def trained(images: Images, steps: int, batch: int = 128) -> Network:
    """A network trained adversarially, by one long step from a random start, in bf16 if the processor has it."""
    net = seeded(network, Key(0) / "net")
    Runtime("cpu", "auto").prepare(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    attack = PGD(Linf(EPS), steps=1, rel_step_size=1.25)
    for step in range(steps):
        key = Key(0) / "step" / step
        index = torch.randint(len(images), (batch,), generator=(key / "batch").on("cpu"))
        x, y = images.floats(index), images.label[index]
        with evaluating(net):
            x_adv = attack.maximise(lambda x, y=y: cross_entropy(net(x, "clean"), y), x, (key / "attack").on("cpu"))
        loss = cross_entropy(net(x_adv, "clean"), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            tell(f"training {step}: {float(loss.detach()):.3f}")
    Runtime().prepare(net)
    return net.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


def _images(data: Path | None, split: str) -> Images:
    if data is None:
        raise SystemExit("bench: autoattack attacks real images: --data names a folder with cifar10/*.parquet")
    with TemporaryDirectory() as kept:  # decoded copies
        return DataSource(str(data / "cifar10"), kept, limit=10000).load(split)
