"""AIR's three forms on natural images: how large their gradients are beside ACL's, while ACL trains.

`python -m bench air-forms --data FOLDER`, where FOLDER holds cifar10/ as Parquet, or the original archive. It trains by
ACL alone, at batch 512. At each step it takes the gradient of λ (SIR + AIR) in each form by all embeddings (the
original's, the clean views' and the adversarial views'), and that of ACL: the ratio of their norms, and their cosine.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

import unshaken
from bench.evidence import recipe, source
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, LossTerms
from unshaken.compute.runtime import Runtime
from unshaken.methods.acl import ACL
from unshaken.methods.air import AIR, FORMS
from unshaken.methods.base import Method
from unshaken.nets.network import Network

BATCH, STEPS = 512, 60
LAMBDA = 0.5


@dataclass(frozen=True)
class MeasuredACL(Method):
    """ACL, with the gradients that AIR would add as terms of the log."""

    acl: ACL = ACL()

    routes: ClassVar = ACL.routes

    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        z_adv, z = self.acl.embed(h, batch, key)
        terms = self.acl.contrast(z_adv, z, clock)
        return terms | self.gradients(h(batch.image, "clean"), z_adv, z, clock)

    def gradients(self, original: Tensor, z_adv: Tensor, z: Tensor, clock: Clock) -> dict[str, Tensor]:
        embeddings = [each.detach().requires_grad_() for each in (original, z_adv, z)]
        acl = flat(self.acl.contrast(*embeddings[1:], clock)["loss"], embeddings)
        found = {}
        for form in FORMS:
            air = AIR(self.acl, LAMBDA, LAMBDA, form)  # pyright: ignore[reportArgumentType]
            added = LAMBDA * air.standard(embeddings[0], embeddings[2])
            added = added + LAMBDA * air.adversarial(*embeddings)
            gradient = flat(added, embeddings)
            found[f"{form}_norm"] = gradient.norm() / acl.norm()
            found[f"{form}_cosine"] = gradient @ acl / (gradient.norm() * acl.norm())
        return found


class Kept:
    """An observer that keeps the lines of the log."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def line(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def flat(loss: Tensor, inputs: list[Tensor]) -> Tensor:
    """Return the gradient by all inputs as one vector; 0 where the loss does not depend on an input."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
    return torch.cat(
        [torch.zeros_like(x).flatten() if g is None else g.flatten() for x, g in zip(inputs, found, strict=True)]
    )


def compare(data: Path | None, rounds: int, quick: bool) -> dict[str, Any]:
    """Train by ACL for some steps, and return the measures at the steps of the log."""
    if data is None:
        raise SystemExit("bench: air-forms needs --data, a folder with CIFAR-10")
    batch, steps = (32, 4) if quick else (BATCH, STEPS)
    one = recipe("acl", 1)
    assert isinstance(one.method, ACL)
    kept = Kept()
    one = replace(one, batch_size=batch, method=MeasuredACL(one.method), name="acl-measured")
    with tempfile.TemporaryDirectory() as folder:
        images = replace(source(data, Path(folder)), limit=batch * steps)
        workspace = unshaken.Workspace(folder, Runtime(threads=1), quiet=True)
        unshaken.pretrain(replace(one, data=images), workspace, observers=[kept])
    names = [f"{form}_{what}" for form in FORMS for what in ("norm", "cosine")]
    return {
        "batch": batch,
        "steps": [line["step"] + 1 for line in kept.lines],
        **{name: [round(line[name], 6) for line in kept.lines] for name in names},
    }
