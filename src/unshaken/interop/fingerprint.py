"""What a network answers to a few fixed images: stored with it, so that anyone can see whether it still does."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unshaken.base.types import Float
from unshaken.interop.load import LoadedModel, file_in, load_model
from unshaken.nets.checkpoint import digest, read_tensors, readable_header, write_tensors
from unshaken.nets.dual_bn import routes_of, set_route
from unshaken.nets.network import Encoder, Network, evaluating

VERSION = 1
TOLERANCE = 1e-4
"""By how much an answer may differ, as a part of the largest number among the stored ones. Machines and versions add
up in different orders: float32 through fifty layers moves by some 1e-6; one batch norm from another route by 1e-2."""
COUNT = 4
ONLY = "only"
"""What the one way through a network without routes is called here."""


def images(channels: int, side: int) -> Float[Tensor, "N C H W"]:
    """Four images that need no generator of random numbers: remainders of whole numbers, slow waves and fast ones."""
    n, c, i, j = torch.meshgrid(*(torch.arange(size) for size in (COUNT, channels, side, side)), indexing="ij")
    return ((7 * n * (n + 1) * i + (3 + 11 * n) * j + n * i * j + 61 * c + 40 * n) % 256) / 255


@torch.no_grad()
def answers(net: Encoder | Network, channels: int, side: int) -> dict[str, Float[Tensor, "N D"]]:
    """Features of an encoder or logits of a classifier for each route: eval mode, float32, on the CPU."""
    x, found = images(channels, side), {}
    with evaluating(net):
        for route in routes_of(net) or (ONLY,):
            set_route(net, route)
            found[route] = net(x, route) if isinstance(net, Network) else net(x)
    return found


def fingerprint(subject: LoadedModel) -> dict[str, Any]:
    """As it is kept in a file: the weights' digest, and the answers as float32 in base 64."""
    found = answers(subject.net, subject.backbone.channels, subject.backbone.image_size)
    if not all(bool(z.isfinite().all()) for z in found.values()):
        raise ValueError("the network answers fixed images with no finite numbers: its weights are of no use")
    return {
        "version": VERSION,
        "weights": digest(subject.net),
        "answers": {route: base64.b64encode(z.numpy().astype("<f4").tobytes()).decode() for route, z in found.items()},
    }


@dataclass(frozen=True)
class Proof:
    """What a comparison with a fingerprint found.

    digest   of the weights
    weights  whether they are the same bits
    routes   the largest deviation of an answer, as a part of the largest stored one; None: not in the fingerprint
    """

    digest: str
    weights: bool
    routes: dict[str, float | None]

    @property
    def holds(self) -> bool:
        return self.weights and all(agrees(deviation) for deviation in self.routes.values())

    def lines(self) -> Iterator[str]:
        word = "the same bits" if self.weights else "DIFFER from those that the fingerprint was taken of"
        yield f"weights: {word}, digest {self.digest}"
        for route, deviation in self.routes.items():
            if deviation is None:
                yield f"{route}: DIFFERS, for it is not both in the file and in its fingerprint"
            else:
                word = "agrees" if agrees(deviation) else "DIFFERS"
                yield f"{route}: {word}, by at most {deviation:.1e} of the largest answer (tolerance {TOLERANCE:g})"


def agrees(deviation: float | None) -> bool:
    return deviation is not None and deviation <= TOLERANCE  # never if it is no number


def compared(subject: LoadedModel, stored: dict[str, Any]) -> Proof:
    """The network's answers now, beside those of a fingerprint."""
    if stored.get("version") != VERSION:
        raise ValueError(f"this is a fingerprint of version {stored.get('version')!r}; this program knows {VERSION}")
    now = answers(subject.net, subject.backbone.channels, subject.backbone.image_size)
    before = {route: _numbers(text) for route, text in stored["answers"].items()}
    routes = {route: deviation(now.get(route), before.get(route)) for route in {**before, **now}}
    weights = digest(subject.net)
    return Proof(weights, weights == stored["weights"], routes)


def _numbers(text: str) -> Tensor:
    raw = base64.b64decode(text, validate=True)
    if not raw or len(raw) % (4 * COUNT):
        raise ValueError(f"the fingerprint has {len(raw)} bytes of answers, and they are of {COUNT} images")
    return torch.from_numpy(np.frombuffer(raw, "<f4").copy()).view(COUNT, -1)


def deviation(now: Tensor | None, before: Tensor | None) -> float | None:
    """max |now − before| / max |before|."""
    if now is None or before is None or now.shape != before.shape:
        return None
    return float((now - before).abs().max() / before.abs().max().clamp(min=torch.finfo(torch.float32).tiny))


def verify_fingerprint(path: Path) -> Proof | None:
    """Whether a file's network still answers as its fingerprint says; None if it has none.

    This finds accidents: a swapped route, a changed weight, a forgotten normalisation, arithmetic gone wrong. It is no
    signature: who changes a file can take its fingerprint anew.
    """
    subject = load_model(path)
    stored = subject.about.get("fingerprint")
    if stored is None:
        return None
    with readable_header(path):
        return compared(subject, stored)


def write_fingerprint(path: Path) -> dict[str, Any]:
    """Take the fingerprint of a file's network and write it into the file; all else in it stays."""
    file, taken = file_in(path), fingerprint(load_model(path))
    tensors, about = read_tensors(file)
    write_tensors(file, tensors, about | {"fingerprint": taken})
    return taken
