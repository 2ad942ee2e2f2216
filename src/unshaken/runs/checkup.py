"""Check-up of an encoder without labels: how its embeddings stand attacks, noise and corruptions"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD, embedding_attack
from unshaken.base.python_words import in_python
from unshaken.base.ranges import Count, Natural, Positive, Several, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.base.types import Float, Int
from unshaken.compute.runtime import Runtime
from unshaken.corruptions.corruption import Corruption
from unshaken.corruptions.severity import FIFTEEN, check
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.embedder import embedder
from unshaken.evaluation.embedding_drift import Drift, Gallery, in_metric
from unshaken.interop.encoder_words import locate
from unshaken.interop.import_checkpoint import import_checkpoint
from unshaken.interop.load import file_in
from unshaken.layouts.foreign import read
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import FORMAT, digest, load_encoder
from unshaken.nets.network import Encoder, Network, device_of, frozen
from unshaken.nets.torch_files import read_safetensors
from unshaken.train.image_sets import check_images_fit, image_identity

BATCH = 64


@dataclass(frozen=True)
@ranged
class Checkup:
    """The changes that a check-up makes to images, and the number of images."""

    gallery: Several = 1000
    """Images among which a changed image is searched, drawn at random."""
    queries: Count = 256
    """Images of the gallery that are changed."""
    eps: tuple[Positive, ...] = (0.5 / 255, 1 / 255, 2 / 255, 4 / 255)
    """Sizes of the attack in l∞, in units of a [0, 1] pixel. Each has a control: random noise of the same size."""
    steps: Count = 20
    """Steps of the attack, of ε/4 each. It moves the embedding as far as it can and needs no labels."""
    corruptions: tuple[str, ...] = ("fifteen",)
    """Common corruptions by name; fifteen: those of CIFAR-10-C."""
    severities: tuple[Count, ...] = (1, 3)
    """Severities of the corruptions, of 1 to 5."""
    metric: Literal["cosine", "l2"] = "cosine"
    """How embeddings are compared where the encoder is used: by the cosine, or by the Euclidean distance."""
    worst: Natural = 10
    """Images on the contact sheet: those that the attack of the second size moved furthest."""
    seed: Whole = 1
    """Seed of the draws, the noise and the attacks."""

    def __post_init__(self) -> None:
        for name in self.names:
            for severity in self.severities:
                check(name, severity)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(n for word in self.corruptions for n in (FIFTEEN if word == "fifteen" else (word,))))


@dataclass(frozen=True, eq=False)
class CheckupResult:
    """The result of a check-up: its numbers as JSON, and the worst images before and after the attack, as uint8."""

    report: dict[str, Any]
    worst: np.ndarray | None = field(default=None)


def encoder_of(word: str | Path) -> tuple[Encoder, Backbone]:
    """Return the encoder that a word names: a file or run of unshaken, or what `unshaken import` reads."""
    path = Path(word)
    if path.exists():
        try:
            file = file_in(path)
        except ValueError:
            file = None
        if file is not None and file.suffix == ".safetensors" and read_safetensors(file)[1].get("format") == FORMAT:
            encoder, backbone, _ = load_encoder(file)
            return encoder, backbone
    found = locate(str(word))
    imported = import_checkpoint(read(found.file), facts=found.facts)
    return imported.encoder, imported.backbone


@in_python
def checkup(word: str | Path, data: DataSource | Images, how: Checkup = Checkup(), runtime: Runtime = Runtime(),
            quiet: bool = False) -> CheckupResult:  # fmt: skip
    """Check an encoder on a user's own images, which need no labels.

    word  a file or run of an encoder, a checkpoint that `unshaken import` reads, or hf/OWNER/NAME
    """
    encoder, backbone = encoder_of(word)
    images = images_of(data, backbone)
    place = torch.randperm(len(images), generator=(Key(how.seed) / "gallery").on("cpu"))[: how.gallery]
    queries = torch.arange(min(how.queries, len(place)))
    net = embedder(encoder, runtime)
    images = images.to(device_of(net))
    with frozen(net):
        gallery = Gallery.of(_embeddings(net, images, place), how.metric)
        changes, sheet = [], None
        pixels = images.floats(place[queries])
        for k, (name, group, change) in enumerate(changes_of(how, net)):
            moved, changed = _moved(net, pixels, change, Key(how.seed) / name, place[queries])
            drift = Drift.of(gallery, queries, in_metric(moved, how.metric))
            changes.append({"change": name, "group": group} | drift.summary())
            if not quiet:
                print(f"{name}: identity lost {changes[-1]['lost']['percent']:.0f} %", file=sys.stderr)
            if how.worst and group == "attack" and k // 2 == min(1, len(how.eps) - 1):
                at = drift.relative.argsort(descending=True)[: how.worst]
                sheet = _sheet(pixels.cpu()[at], changed[at])
    report = {
        "checkup": to_json(how),
        "encoder": {"name": Path(str(word)).name, "digest": digest(encoder), "network": backbone.name},
        "side": int(images.pixels.shape[-1]),
        "data": image_identity(images) | {"gallery": len(place), "queries": len(queries)},
        "yardsticks": yardsticks(gallery),
        "changes": changes,
    }
    return CheckupResult(report, sheet)


def images_of(data: DataSource | Images, backbone: Backbone) -> Images:
    """Return the images to check on: those for training, which may have no labels."""
    if isinstance(data, Images):
        return check_images_fit(data, backbone)
    return check_images_fit(replace(data, size=data.size or backbone.image_size).load("train"), backbone)


Change = Callable[[Float[Tensor, "N C H W"], Key, Int[Tensor, "N"]], Float[Tensor, "N C H W"]]
"""From images, a key and their indices to changed images."""


def changes_of(how: Checkup, net: Network) -> Iterator[tuple[str, str, Change]]:
    """Yield a name, a group and a function for each change."""
    for eps in how.eps:
        size = f"{255 * eps:.3g}/255"
        yield f"attack {size}", "attack", _attack(how, net, eps)
        yield f"noise {size}", "noise", lambda x, key, index, e=eps: Linf(e).sample(x, key.on(x.device))
    for name in how.names:
        for severity in how.severities:
            corruption = Corruption(name, severity)
            yield f"{name} {severity}", "corruption", lambda x, key, index, c=corruption: c(x, key, index)


def _attack(how: Checkup, net: Network, eps: float) -> Change:
    pgd = PGD(Linf(eps), how.steps)

    def embed(x: Tensor) -> Tensor:
        z = net(x, "shared")
        return torch.nn.functional.normalize(z, dim=-1) if how.metric == "cosine" else z

    def attack(x: Tensor, key: Key, index: Tensor) -> Tensor:
        with torch.no_grad():
            z = embed(x)
        return embedding_attack(pgd, embed, lambda a, b: (a - b).square().sum(-1), x, z, key.on(x.device))

    return attack


@torch.no_grad()
def _embeddings(net: Network, images: Images, place: Int[Tensor, "G"]) -> Float[Tensor, "G D"]:
    return torch.cat([net(images.floats(block), "shared").cpu() for block in place.split(BATCH)])


def _moved(
    net: Network, pixels: Float[Tensor, "N C H W"], change: Change, key: Key, index: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N C H W"]]:
    """Return the embeddings of changed images, and these images."""
    blocks = list(zip(pixels.split(BATCH), index.to(pixels.device).split(BATCH), strict=True))
    changed = [change(x, key / k, at) for k, (x, at) in enumerate(blocks)]
    with torch.no_grad():
        return torch.cat([net(x, "shared").cpu() for x in changed]), torch.cat([x.cpu() for x in changed])


def yardsticks(gallery: Gallery) -> dict[str, float]:
    """Return the median cosine between nearest neighbours and between random images: what a drift is read beside."""
    unit = in_metric(gallery.z, "cosine")
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-torch.inf)
    others = cosine[~torch.eye(len(unit), dtype=torch.bool)]
    return {"neighbour": float(cosine.amax(1).median()), "random": float(others.median())}


def _sheet(before: Float[Tensor, "n C H W"], after: Float[Tensor, "n C H W"]) -> np.ndarray:
    """Return pairs of images, one after the other."""
    pairs = torch.stack([before, after], 1).flatten(0, 1)
    return (pairs * 255).round().byte().numpy()
