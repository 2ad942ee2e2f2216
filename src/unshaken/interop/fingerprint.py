"""Fingerprints: a network's outputs for four fixed images, stored with it, compared later."""

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
"""Largest deviation of an output, relative to the largest stored output. Machines and versions sum in different orders:
float32 through fifty layers changes by about 1e-6; a batch norm from another route changes the output by 1e-2."""
COUNT = 4
ONLY = "only"
"""The name under which a network without routes has its outputs."""


def images(channels: int, side: int) -> Float[Tensor, "N C H W"]:
    """Return four fixed images with slow and fast waves, from integer arithmetic: the same on every machine."""
    n, c, i, j = torch.meshgrid(*(torch.arange(size) for size in (COUNT, channels, side, side)), indexing="ij")
    return ((7 * n * (n + 1) * i + (3 + 11 * n) * j + n * i * j + 61 * c + 40 * n) % 256) / 255


@torch.no_grad()
def answers(net: Encoder | Network, channels: int, side: int) -> dict[str, Float[Tensor, "N D"]]:
    """Return an encoder's features or a classifier's logits for each route: eval mode, float32, on the CPU."""
    x, found = images(channels, side), {}
    with evaluating(net):
        for route in routes_of(net) or (ONLY,):
            set_route(net, route)
            found[route] = net(x, route) if isinstance(net, Network) else net(x)
    return found


def fingerprint(subject: LoadedModel) -> dict[str, Any]:
    """Return the fingerprint for a file's header: the digest of the weights, and the outputs as float32 in base 64."""
    found = answers(subject.net, subject.backbone.channels, subject.backbone.image_size)
    if not all(bool(z.isfinite().all()) for z in found.values()):
        raise ValueError("the network's outputs for fixed images are not finite numbers: its weights are useless")
    return {
        "version": VERSION,
        "weights": digest(subject.net),
        "answers": {route: base64.b64encode(z.numpy().astype("<f4").tobytes()).decode() for route, z in found.items()},
    }


@dataclass(frozen=True)
class Comparison:
    """A network compared with its fingerprint.

    digest   the digest of its weights now
    weights  True if the weights are the same bits as when the fingerprint was taken
    routes   by route, the largest deviation relative to the largest stored output; None for a route in only one of them
    """

    digest: str
    weights: bool
    routes: dict[str, float | None]

    @property
    def holds(self) -> bool:
        return self.weights and all(agrees(deviation) for deviation in self.routes.values())

    def lines(self) -> Iterator[str]:
        word = "the same bits" if self.weights else "DIFFER from the weights when the fingerprint was taken"
        yield f"weights: {word}, digest {self.digest}"
        for route, deviation in self.routes.items():
            if deviation is None:
                yield f"{route}: DIFFERS, because the network or its fingerprint does not have this route"
            else:
                word = "agrees" if agrees(deviation) else "DIFFERS"
                yield f"{route}: {word}, by at most {deviation:.1e} of the largest answer (tolerance {TOLERANCE:g})"


def agrees(deviation: float | None) -> bool:
    return deviation is not None and deviation <= TOLERANCE  # False for NaN


def compare(subject: LoadedModel, stored: dict[str, Any]) -> Comparison:
    """Compare the network's outputs now with those in a fingerprint."""
    if stored.get("version") != VERSION:
        raise ValueError(
            f"the fingerprint has version {stored.get('version')!r}, and this program reads only version {VERSION}"
        )
    now = answers(subject.net, subject.backbone.channels, subject.backbone.image_size)
    before = {route: _numbers(text) for route, text in stored["answers"].items()}
    routes = {route: deviation(now.get(route), before.get(route)) for route in {**before, **now}}
    weights = digest(subject.net)
    return Comparison(weights, weights == stored["weights"], routes)


def _numbers(text: str) -> Tensor:
    raw = base64.b64decode(text, validate=True)
    if not raw or len(raw) % (4 * COUNT):
        raise ValueError(f"the fingerprint has {len(raw)} bytes of outputs, which cannot be of {COUNT} images")
    return torch.from_numpy(np.frombuffer(raw, "<f4").copy()).view(COUNT, -1)


def deviation(now: Tensor | None, before: Tensor | None) -> float | None:
    """Return max |now − before| / max |before|; None if the shapes differ or one of them is missing."""
    if now is None or before is None or now.shape != before.shape:
        return None
    return float((now - before).abs().max() / before.abs().max().clamp(min=torch.finfo(torch.float32).tiny))


def verify_fingerprint(path: Path) -> Comparison | None:
    """Compare a file's network with its fingerprint; None if it has none.

    This finds accidents: a swapped route, a changed weight, a forgotten normalisation, an error in arithmetic. It is no
    signature: somebody who changes a file can also take a new fingerprint.
    """
    subject = load_model(path)
    stored = subject.metadata.get("fingerprint")
    if stored is None:
        return None
    with readable_header(path):
        return compare(subject, stored)


def write_fingerprint(path: Path) -> dict[str, Any]:
    """Take the fingerprint of a file's network and write it into the file; the rest of the file stays as it is."""
    file, taken = file_in(path), fingerprint(load_model(path))
    tensors, metadata = read_tensors(file)
    write_tensors(file, tensors, metadata | {"fingerprint": taken})
    return taken
