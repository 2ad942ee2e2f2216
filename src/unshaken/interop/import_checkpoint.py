"""A published checkpoint as an encoder of ours, with its routes; what was recognised, assumed and dropped is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unshaken.base.ranges import Number, Positive, ranged
from unshaken.base.suggest import ASIDE, did_you_mean
from unshaken.data.source import UNKNOWN
from unshaken.interop.foreign import ForeignCheckpoint
from unshaken.interop.layouts import LAYOUTS, NONE
from unshaken.interop.normalisation import chosen
from unshaken.interop.prefix_search import read_as
from unshaken.interop.weight_matching import Reading, Wanted
from unshaken.nets.backbone import Backbone, timm_encoder
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder
from unshaken.nets.resnet import KINDS
from unshaken.nets.torch_files import real


@dataclass(frozen=True)
@ranged
class ImportOptions:
    """Where the encoder goes, and what the user knows of the file; None leaves that to the file and its layout."""

    out: Path | None = None
    """A folder, or a file NAME.safetensors; runs/ and the file's name if it is not given."""
    layout: str | None = None
    """Which one the file has, if it is not recognised rightly."""
    key: str | None = None
    """Where in the file the weights lie: its entry, such as state_dict or model.ema with a dot between two."""
    prefix: str | None = None
    """What the names of the network's weights begin with, such as module.encoder_q."""
    drop: tuple[str, ...] = ()
    """Weights or parts to leave out, by their names or by patterns such as adapter.*; they are recorded."""
    network: str | None = None
    """timm/NAME: the file holds weights of this network of timm's."""
    normalisation: Literal["imagenet", "cifar", "none"] | None = None
    """What the network does to pixels in [0, 1] first."""
    mean: tuple[Number, ...] | None = None
    """Of the normalisation, one a channel; with --std."""
    std: tuple[Positive, ...] | None = None
    padding: Literal[1, 2] | None = None
    """Of a 3x3 stem: 2 for DeACL's and solo-learn's."""
    image_size: Literal[8, 32, 96, 224] | None = None
    """For images of which side: a 7x7 stem is of 96 or 224 pixels, and no file says of which."""
    method: str | None = None
    """The paper's: acl, acl-air, dynacl, dynacl-air, advcl, ...; presets of fine-tuning and citations go by it."""
    data: str | None = None
    """What the encoder was trained on: cifar10, cifar100, stl10, or a path."""
    classes: str | None = None
    """What a classifier in the file tells apart: cifar10, cifar100, stl10, or names with commas between them."""
    mode: Literal["slf", "alf", "aff"] | None = None
    """How that classifier was fine-tuned."""
    tuned: str | None = None
    """On what, if --classes does not say it, and if it is another set than --data."""
    classifier: bool = True
    """Whether a classifier in the file is kept too, ready for `unshaken evaluate`."""

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix in (".pt", ".pth", ".ckpt", ".tar"):
            raise ValueError(f"--out is a folder, or a file NAME.safetensors, and not {self.out}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("--mean and --std go together")
        if self.mean is not None and self.normalisation is not None:
            raise ValueError("--normalisation and --mean, --std say the same thing: give one of them")
        if self.layout is not None and self.layout not in LAYOUTS:
            hint = did_you_mean(self.layout, LAYOUTS, ASIDE)
            raise ValueError(f"there is no layout {self.layout!r}{hint}; there are {', '.join(LAYOUTS)}")
        if self.network is not None and not self.network.removeprefix("timm/") not in ("", self.network):
            raise ValueError(f"--network is timm/NAME, and not {self.network}; others are recognised by their shapes")
        if self.layout == "timm" and self.network is None:
            raise ValueError("--layout timm needs the network's name: --network timm/NAME")

    @property
    def wanted(self) -> Wanted:
        layout = None if self.layout == "timm" else self.layout
        return Wanted(layout, self.key, self.prefix, self.drop, self.network, self.image_size)


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """An encoder that a file held, what was said of it, and the classifier on it if there was one."""

    encoder: Encoder
    backbone: Backbone
    about: dict[str, Any]
    said: dict[str, str]
    head: nn.Linear | None = None


def import_checkpoint(foreign: ForeignCheckpoint, known: ImportOptions = ImportOptions()) -> ImportedModel:
    """Strictly: ValueError if any weight of the network is missing, or if what was found may compute more than it."""
    reading = read_as(foreign, known.wanted)
    layout = reading.layout
    said = {"file": f"{foreign.name}, {reading.place}{_beside(foreign, reading)}"}
    said["layout"] = f"{layout.name}: {layout.what}"
    if foreign.skipped:
        said["not run"] = f"{', '.join(foreign.skipped[:6])}: named in the file, skipped"
    backbone = _backbone(reading, known, said)
    encoder = with_routes(backbone.build(), reading.routes) if reading.routes else backbone.build()
    _fill(encoder, reading, foreign, said)
    said["routes"] = _routes(reading)
    head = _head(foreign, reading, encoder, known, said)
    said["dropped"] = ", ".join(f"{what} ({count})" for what, count in reading.dropped.items()) or "nothing"
    method, data = _identity(reading, known, said)
    origin = {
        "recipe": recipe_of(method, data),
        "file": {"name": foreign.name, "sha256": foreign.sha256},
        "layout": layout.name,
        "reading": {"key": reading.container.key, "prefix": reading.prefix, "drop": list(known.drop)},
        "dropped": dict(reading.dropped),
        "said": dict(said),
    }
    return ImportedModel(encoder.eval(), backbone, {"pretrain": origin}, said, head)


def recipe_of(name: str, data: str, **others: Any) -> dict[str, Any]:
    """What stands where a recipe of ours would."""
    return {"type": "Imported", "name": name, "data": {"type": "DataSource", "name": data}, "seed": UNKNOWN} | others


def _beside(foreign: ForeignCheckpoint, reading: Reading) -> str:
    others = [name for name in foreign.entries if "." not in name and name != reading.container.key.partition(".")[0]]
    return f" beside {', '.join(others[:8])}" if others else ""


def _identity(reading: Reading, known: ImportOptions, said: dict[str, str]) -> tuple[str, str]:
    """The paper and the image set: as given, or as only one has it; else unknown, and who it may be."""
    methods = reading.layout.methods
    method = known.method or (methods[0] if len(methods) == 1 else UNKNOWN)
    data = known.data or reading.layout.data or UNKNOWN
    if method == UNKNOWN:
        may = f"{', '.join(methods)} write such files" if methods else "many write such files"
        said["method"] = f"unknown: {may} (--method NAME, for its presets and citations)"
    else:
        said["method"] = method + ("" if known.method else " (alone writes such files)")
    said["trained on"] = f"{data} (--data, if it was another)" if data != UNKNOWN else "unknown (--data NAME)"
    return method, data


def _backbone(reading: Reading, known: ImportOptions, said: dict[str, str]) -> Backbone:
    name, kernel = reading.network, reading.kernel
    if known.network:
        stem = reading.image_size
        said["network"] = f"{name}, for {stem} pixels"
    else:
        sides = (32, 8) if kernel == 3 else (reading.layout.wide, 96 + 224 - reading.layout.wide)
        stem = known.image_size or sides[0]
        if stem not in sides:
            raise ValueError(f"a {kernel}x{kernel} stem is for {sides[0]} or {sides[1]} pixels, not for {stem}")
        how = (
            "as given"
            if known.image_size
            else "recognised by its shape"
            if kernel == 3
            else "assumed: --image-size if not"
        )
        said["network"] = f"{name}, {kernel}x{kernel} stem for {stem} pixels ({how})"
    given = None if known.mean is None or known.std is None else (known.mean, known.std)
    normalisation, why = chosen(reading, given, known.normalisation, known.method)
    mean, std = normalisation
    none = set(mean) == set(NONE[0]) and set(std) == set(NONE[1])
    said["normalisation"] = f"{'none' if none else f'mean {list(mean)}, std {list(std)}'} ({why})"
    padding = _padding(kernel == 3 and name in KINDS, reading, known, said)
    return Backbone(name, stem, reading.channels, mean, std, padding=padding)  # pyright: ignore[reportArgumentType]


def _padding(free: bool, reading: Reading, known: ImportOptions, said: dict[str, str]) -> Literal[1, 2]:
    """No weight shows it: as given, as only one paper has it, or 1, which is said; or a question where many differ."""
    if not free:
        return known.padding or 1  # another is refused by the network, which knows why
    if known.padding is None and reading.layout.padding is None:
        raise ValueError(
            "the file does not say how its 3x3 stem is padded, and those who write such files differ: give --padding 2 "
            "if it is solo-learn's, --padding 1 if it is not"
        )
    padding = known.padding or reading.layout.padding
    why = "as given" if known.padding else f"assumed, for no file says it: --padding {3 - padding} if not"  # pyright: ignore[reportOperatorIssue]
    said["padding"] = f"{padding} ({why})"
    return padding  # pyright: ignore[reportReturnType]


def _fill(encoder: Encoder, reading: Reading, foreign: ForeignCheckpoint, said: dict[str, str]) -> None:
    """Every weight finds its place and every place its weight, with finite numbers."""
    expected = encoder.backbone.state_dict()
    taken = {name: real(tensor, name, foreign.name) for name, tensor in reading.weights.items()}
    counters = [name for name in expected if name.endswith("num_batches_tracked") and name not in taken]
    encoder.backbone.load_state_dict(taken | {name: torch.zeros_like(expected[name]) for name in counters})
    said["weights"] = f"all {len(expected)} found" + (f", {len(counters)} counters of batches at 0" if counters else "")


def _routes(reading: Reading) -> str:
    layout = reading.layout
    if layout.only is not None:
        return f"none: branch {layout.only}, the adversarial one, is taken alone"
    if not reading.routes:
        return "none: one batch norm for all images"
    return ", ".join(f"{route} is branch {layout.routes.index(route)}" for route in reading.routes)


def _head(
    foreign: ForeignCheckpoint, reading: Reading, encoder: Encoder, known: ImportOptions, said: dict[str, str]
) -> nn.Linear | None:
    """A plain linear classifier, if the file has one alone, and it has learned anything."""
    found = dict(reading.heads) or dict(_elsewhere(foreign, reading, encoder.features))
    projects = reading.prefix.endswith(("encoder_q.", "encoder_k."))  # what a contrastive pair has on top
    if not known.classifier or projects or len(found) != 1:
        for name, parts in found.items():
            reading.dropped["projection head" if projects else "classifier" if len(found) == 1 else name] += len(parts)
        return None
    ((name, parts),) = found.items()
    tensors = {part: real(tensor, f"{name}.{part}", foreign.name) for part, tensor in parts.items()}
    weight, bias = tensors.get("weight"), tensors.get("bias")
    rows = len(weight) if weight is not None else 0
    if weight is None or tuple(weight.shape) != (rows, encoder.features) or bias is not None and len(bias) != rows:
        shapes = ", ".join(f"{name}.{part} {tuple(tensor.shape)}" for part, tensor in tensors.items())
        raise ValueError(
            f"the classifier in the file does not fit {encoder.features} features: it has {shapes} "
            "(--no-classifier leaves it out)"
        )
    if not bool(weight.any()):
        reading.dropped["classifier of zeros"] += len(tensors)
        return None
    head = zero_classifier(encoder.features, rows)
    head.load_state_dict({"weight": weight, "bias": torch.zeros(rows) if bias is None else bias})
    said["classifier"] = f"{rows} classes" + (" (without a bias)" if bias is None else "")
    return head


def _elsewhere(foreign: ForeignCheckpoint, reading: Reading, features: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A dictionary of its own that holds one linear layer for these features: AdvCL's {model, classifier}."""
    for container in foreign.containers:
        if container is reading.container or container.key.rpartition(".")[2] not in ("classifier", "fc", "linear"):
            continue
        parts = {name.rpartition(".")[2]: tensor for name, tensor in container.tensors.items()}
        weight = parts.get("weight")
        alone = len(container.tensors) == len(parts) and parts.keys() <= {"weight", "bias"}
        if alone and weight is not None and weight.ndim == 2 and weight.shape[1] == features:
            yield container.key, parts


def import_timm_network(name: str, known: ImportOptions = ImportOptions()) -> ImportedModel:
    """timm/NAME: a network of timm's with the weights that timm has for it, downloaded if they are not there."""
    fields = ("layout", "padding", "classes", "mode", "key", "prefix", "network")
    others = [field for field in fields if getattr(known, field) is not None]
    if others:
        raise ValueError(f"--{others[0]} is for files; {name} is taken as timm has it")
    encoder, backbone = timm_encoder(name, known.image_size)
    if known.mean or known.normalisation:
        given = (known.mean, known.std) if known.mean and known.std else None
        (mean, std), _ = chosen(Reading(None, "", channels=backbone.channels), given, known.normalisation, None)  # pyright: ignore[reportArgumentType]
        backbone = replace(backbone, mean=mean, std=std)
        encoder.normalize = backbone.build().normalize
    said = {
        "network": f"{backbone.name}, for {backbone.image_size} pixels",
        "normalisation": f"mean {list(backbone.mean)}, std {list(backbone.std)}",
        "routes": "none: timm's networks have one batch norm for all images, or none",
        "dropped": "timm's classifier",
    }
    recipe = recipe_of(known.method or UNKNOWN, known.data or UNKNOWN)
    origin = {"recipe": recipe, "file": {"name": name}, "layout": "timm", "dropped": {"classifier": 2}, "said": said}
    return ImportedModel(encoder.eval(), backbone, {"pretrain": origin}, said)
