"""Search for a network in a checkpoint: the entry and the prefix that have all its weights."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from unshaken.layouts.architecture import timm_shapes
from unshaken.layouts.foreign import Container, ForeignCheckpoint
from unshaken.layouts.weight_matching import Reading, Wanted, attempt, part_of, shapes_in


def read_as(foreign: ForeignCheckpoint, wanted: Wanted = Wanted()) -> Reading:
    """Return the reading of a file that fits. ValueError if none fits, or if several fit with different weights."""
    tried = [
        attempt(foreign, container, prefix, wanted)
        for container in _containers(foreign, wanted)
        for prefix in _prefixes(container, wanted)
    ]
    fitting = [reading for reading in tried if reading.complete]
    skipped = [each for each in fitting if any(_skips(one, each) for one in fitting)]
    different: list[Reading] = []
    for reading in (each for each in fitting if each not in skipped):
        if not any(_same(reading, other) for other in different):
            different.append(reading)
    if len(different) == 1:
        return different[0]
    if different:
        raise ValueError(_choice(foreign, different))
    raise ValueError(_why_none(foreign, tried, wanted))


def _containers(foreign: ForeignCheckpoint, wanted: Wanted) -> list[Container]:
    if wanted.key is None:
        return list(foreign.containers)
    found = [container for container in foreign.containers if container.key == wanted.key]
    if not found:
        keys = ", ".join(repr(container.key) for container in foreign.containers[:12])
        raise ValueError(f"{foreign.name} has no tensors under --key {wanted.key!r}; it has tensors under {keys}")
    return found


def _prefixes(container: Container, wanted: Wanted) -> list[str]:
    """Return the prefixes under which a network may be: those before a name like that of a first convolution."""
    if wanted.prefix is not None:
        return [wanted.prefix + ("." if wanted.prefix and not wanted.prefix.endswith(".") else "")]
    if wanted.network is not None:
        _, shapes = timm_shapes(wanted.network, wanted.image_size, shapes_in(container))
        first = next(iter(shapes))
        starts = [name.removesuffix(first) for name in container.tensors if name.endswith(first)]
        return list(dict.fromkeys(start for start in starts if not start or start.endswith(".")))
    found = []
    for name, shape in shapes_in(container).items():
        at = re.fullmatch(r"(|.*\.)(?:conv1|(\d{1,3}))\.weight", name)
        if at and len(shape) == 4 and shape[-1] in (3, 7) and not re.search(r"(layer\d*|block\d)\.\d+\.$", at[1]):
            found.append(at[1])
    return list(dict.fromkeys(found))


def _skips(one: Reading, other: Reading) -> bool:
    """Return whether the layout of one reading says that the other is of a network that is not imported."""
    skips = one.layout.skips if one.layout else None
    return one is not other and bool(skips and re.search(skips + r"$", other.prefix)) and (
        one.container is other.container and not re.search(skips + r"$", one.prefix)
    )  # fmt: skip


def _same(one: Reading, other: Reading) -> bool:
    if one.network != other.network or one.weights.keys() != other.weights.keys():
        return False
    return all(_equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


def _equal(a: Any, b: Any) -> bool:
    pair = [torch.from_numpy(np.array(v)) if isinstance(v, (np.ndarray, np.generic)) else v for v in (a, b)]
    return pair[0] is pair[1] or torch.equal(*pair)


def _choice(foreign: ForeignCheckpoint, different: list[Reading]) -> str:
    keys = dict.fromkeys(reading.container.key for reading in different)
    ways = [f"--key {key or repr('')}" for key in keys] if len(keys) > 1 else []
    if len(ways) < len(different):
        ways = [
            " ".join([*([f"--key {r.container.key or repr('')}"] if ways else []), f"--prefix {r.prefix or repr('')}"])
            for r in different
        ]
    networks = ", ".join(f"a {reading.network} {reading.place}" for reading in different[:6])
    return f"{foreign.name} holds {len(different)} networks ({networks}): choose one by {' or '.join(ways[:6])}"


def _why_none(foreign: ForeignCheckpoint, tried: list[Reading], wanted: Wanted) -> str:
    ways = "--key, --prefix and --drop change how it is read; `unshaken import --help` lists the layouts"
    near = max(tried, key=_nearness, default=None)
    if near is None or (near.error and near.layout is None):
        names = [name for container in foreign.containers for name in container.tensors][:3]
        looks = any("patch_embed" in name for container in foreign.containers for name in container.tensors)
        of_timm = "it looks like a Vision Transformer: " if looks else "if it is a network of timm: "
        where = "under any prefix" if wanted.prefix is None else f"under --prefix {wanted.prefix!r}"
        why = f"it has no conv1.weight of 3x3 or 7x7, with which a ResNet begins, {where}"
        why += f" ({near.error})" if near and wanted.prefix is None else ""
        return (
            f"{foreign.name} has no layout that can be read: {why}; its first weights are {', '.join(names)} "
            f"({of_timm}--network timm/NAME; {ways}; --layout NAME)"
        )
    layout = near.layout.name if near.layout else "unknown"
    if near.error:
        return f"{foreign.name}, {near.place}: {near.error} (with layout {layout}). Nothing was imported; {ways}"
    advice = (
        f"; --drop {part_of(near.unexpected[0].removeprefix(near.prefix))} leaves that out" if near.unexpected else ""
    )
    return (
        f"{foreign.name} does not fit a {near.network} with layout {layout}, {near.place}: "
        f"weights {near.mismatch()}. Nothing was imported{advice}; {ways}"
    )


def _nearness(reading: Reading) -> tuple[bool, int]:
    return not reading.error, len(reading.weights) - len(reading.missing) - len(reading.other)
