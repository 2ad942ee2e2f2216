"""Comparison of weights with a network: found, missing, unexpected, or of another shape."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from unshaken.layouts.architecture import names_by_number, network_of, shapes_of, timm_shapes
from unshaken.layouts.foreign import Container, ForeignCheckpoint
from unshaken.layouts.published import LAYOUTS, Layout
from unshaken.nets.timm_nets import timm_config

HARMLESS = r"(^|\.)(total_ops|total_params|n_averaged|num_batches_tracked|weight_mask_shape|_extra_state)$"
"""Counters that tools store with the weights; no network computes with them."""
UNUSED = r"^sub_block1\."
"""Modules that TRADES' wide ResNet has but does not use in its forward pass."""
CLASSIFIERS = r"(fc|linear|classifier|head|last_linear)"
OUTSIDE = r"(fc|linear|classifier|cls|lin|\d+)"
"""Names of a linear classifier, within the network and beside it."""


@dataclass(frozen=True)
class Wanted:
    """The user's options for the search; the fields are those of `ImportOptions`. None: found by the search."""

    layout: str | None = None
    key: str | None = None
    prefix: str | None = None
    drop: tuple[str, ...] = ()
    network: str | None = None
    image_size: int | None = None


@dataclass(eq=False)
class Reading:
    """One way to read a file: the tensors under one prefix as the weights of a network.

    weights     tensors by the names of the backbone's weights
    heads       weight and bias of linear classifiers, by the classifier's name
    dropped     how many weights are left out, by what they belong to
    missing     names of weights that are not in the file
    unexpected  names of tensors that fit nowhere in the network
    other       names of weights with another shape
    error       why the file cannot be read this way; empty if it can
    """

    container: Container
    prefix: str
    layout: Layout | None = None
    network: str = ""
    channels: int = 3
    kernel: int = 0
    image_size: int | None = None
    routes: tuple[str, ...] = ()
    weights: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    error: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not (self.error or self.missing or self.unexpected or self.other)

    @property
    def place(self) -> str:
        return str(self.container) + (f", names begin with {self.prefix!r}" if self.prefix else "")

    def mismatch(self) -> str:
        """Describe in one clause which weights do not fit."""
        groups = ((self.missing, "missing"), (self.unexpected, "unexpected"), (self.other, "of another shape"))
        return "; ".join(f"{len(names)} {what}, the first is {names[0]}" for names, what in groups if names)


def shapes_in(container: Container) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in container.tensors.items()}


def attempt(foreign: ForeignCheckpoint, container: Container, prefix: str, wanted: Wanted) -> Reading:
    """Read the tensors under one prefix as a network. What does not fit stands in the fields of the reading."""
    reading = Reading(container, prefix)
    inner = {name.removeprefix(prefix): t for name, t in container.tensors.items() if name.startswith(prefix)}
    outer = [name for name in container.tensors if not name.startswith(prefix)]
    for name in [name for name in inner if _is_dropped(prefix + name, name, wanted)]:
        reading.dropped[part_of(name)] += 1
        del inner[name]
    try:
        if wanted.network:
            _as_timm(reading, inner, wanted)
        else:
            inner = _named(inner)
            _as_layout(reading, foreign, inner, outer, wanted)
    except ValueError as error:
        reading.error = str(error)
        return reading
    _compare(reading)
    _beside(reading, outer, wanted)
    return reading


def _is_dropped(full: str, name: str, wanted: Wanted) -> bool:
    """Return whether --drop names a weight or a module that it belongs to, with the prefix or without."""
    names = [drop.rstrip(".") for drop in wanted.drop]
    return any(fnmatchcase(each, drop) or fnmatchcase(each, f"{drop}.*") for drop in names for each in (full, name))


def _named(inner: dict[str, Any]) -> dict[str, Any]:
    """Rename the modules of a Sequential by number to those of a ResNet."""
    parts = names_by_number({name: tuple(tensor.shape) for name, tensor in inner.items()})
    if parts is None:
        return inner
    split = [(name.partition("."), tensor) for name, tensor in inner.items()]
    return {f"{parts.get(first, first)}{dot}{rest}": tensor for (first, dot, rest), tensor in split}


def _as_layout(
    reading: Reading, foreign: ForeignCheckpoint, inner: dict[str, Any], outer: list[str], wanted: Wanted
) -> None:
    others = [_relative(name, reading.prefix) for name in outer]
    rows = [LAYOUTS[wanted.layout]] if wanted.layout else LAYOUTS.values()
    forced, there = wanted.layout is not None, foreign.entries + tuple(c.key for c in foreign.containers)
    layout = next((row for row in rows if forced or row.fits(inner, others, reading.prefix, there)), None)
    if layout is None:
        raise ValueError("its names fit no layout")
    reading.layout = layout
    for name, tensor in inner.items():
        what, new = layout.dropped(name) or _harmless(name), layout.renamed(name)
        if what:
            reading.dropped[what] += 1
        elif new is None or new in reading.weights:
            reading.unexpected.append(reading.prefix + name)
        else:
            reading.weights[new] = tensor
    reading.network, reading.channels, reading.kernel = network_of(reading.weights)
    reading.routes = tuple(r for r in layout.routes if any(f".routes.{r}." in name for name in reading.weights))
    _bounded(reading)
    reading.shapes = shapes_of(reading.network, 32 if reading.kernel == 3 else 224, reading.channels, reading.routes)


def _bounded(reading: Reading) -> None:
    """Refuse a file with far too few weights for its network, before that is built: a depth from a file may be huge."""
    depth = [int(number) for number in re.findall(r"\d+", reading.network)]
    if reading.network.startswith("w") and depth[0] > len(reading.weights):
        raise ValueError(f"a {reading.network} has more weights than the {len(reading.weights)} in the file")


def _harmless(name: str) -> str | None:
    counter = re.search(HARMLESS, name)
    if counter and not name.endswith("num_batches_tracked"):
        return "counters of tools"
    return "modules that the forward pass does not use" if re.search(UNUSED, name) else None


def _as_timm(reading: Reading, inner: dict[str, Any], wanted: Wanted) -> None:
    reading.layout, reading.network, reading.weights = LAYOUTS["timm"], wanted.network or "", dict(inner)
    reading.image_size, reading.shapes = timm_shapes(reading.network, wanted.image_size, shapes_in(reading.container))
    name = timm_config(reading.network.removeprefix("timm/")).classifier
    for part in ("weight", "bias") if isinstance(name, str) else ():
        if (full := f"{name}.{part}") in reading.weights and full not in reading.shapes:
            reading.heads.setdefault(name, {})[part] = reading.weights.pop(full)  # pyright: ignore[reportArgumentType]
    convolutions = [shape for shape in reading.shapes.values() if len(shape) == 4]
    reading.channels = convolutions[0][1] if convolutions else 3


def _compare(reading: Reading) -> None:
    """Sort the tensors: weights of the network, heads, those to drop, and those that are unexpected."""
    expected, weights = reading.shapes, reading.weights
    reading.missing = [n for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    reading.other = [n for n in expected if n in weights and tuple(weights[n].shape) != expected[n]]
    own = {part_of(name) for name in expected}
    for name in [name for name in weights if name not in expected]:
        tensor, part = weights.pop(name), part_of(name)
        head = re.fullmatch(rf"{CLASSIFIERS}\.(weight|bias)", name)
        if head and tensor.ndim == (2 if head[2] == "weight" else 1):
            reading.heads.setdefault(head[1], {})[head[2]] = tensor
        elif is_statistic(name):
            continue  # it belongs to the normalisation, which is read by itself
        elif "." not in name and tensor.ndim != 4:
            reading.dropped[part] += 1
        elif part in own or tensor.ndim == 4 or re.fullmatch(r"[^.]+\.running_mean", name):
            reading.unexpected.append(reading.prefix + name)  # dropping it might change what the network computes
        else:
            reading.dropped[part] += 1


def is_statistic(name: str) -> bool:
    """Return whether a name is that of a mean or a standard deviation of pixels."""
    return bool(re.search(r"(^|\.|[a-z]_)(mean|std|mu|sigma)$", name)) and not name.endswith("running_mean")


def part_of(name: str) -> str:
    return name.partition(".")[0]


def _beside(reading: Reading, outer: list[str], wanted: Wanted) -> None:
    """Sort the tensors without the prefix: linear classifiers, those to drop, and those that are unexpected."""
    before = re.fullmatch(r"(?:.*\.)?(\d+)\.", reading.prefix)
    for full in outer:
        name, tensor = _relative(full, reading.prefix), reading.container.tensors[full]
        what = reading.layout.dropped(name) or _harmless(name)
        head = re.fullmatch(rf"{OUTSIDE}\.(?:\d+\.)?(weight|bias)", name)
        number = int(part_of(name)) if part_of(name).isdecimal() else None
        if what or _is_dropped(full, name, wanted):
            reading.dropped[what or part_of(name)] += 1
        elif is_statistic(name):
            continue
        elif before and number is not None and number < int(before[1]):
            reading.unexpected.append(full)  # a module before the network in a Sequential changes its input
        elif head and tensor.ndim == (2 if head[2] == "weight" else 1):
            reading.heads.setdefault(name.removesuffix(f".{head[2]}"), {})[head[2]] = tensor
        else:
            reading.dropped[part_of(name)] += 1


def _relative(name: str, prefix: str) -> str:
    """Return a name without the leading modules that it has in common with the prefix."""
    mine, theirs = name.split("."), prefix.split(".")[:-1]
    same = 0
    while same < len(theirs) and same < len(mine) - 1 and mine[same] == theirs[same]:
        same += 1
    return ".".join(mine[same:])
