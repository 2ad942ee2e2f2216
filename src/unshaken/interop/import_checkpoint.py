"""Import of a checkpoint as an encoder, with a report of what was recognised and assumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from unshaken.data.source import UNKNOWN
from unshaken.interop.encoder_import import import_encoder, read_encoder
from unshaken.interop.import_options import ImportedModel, ImportOptions, recipe_of
from unshaken.layouts.encoder_facts import Facts
from unshaken.layouts.foreign import ForeignCheckpoint
from unshaken.layouts.mobile_names import Translated, translated
from unshaken.layouts.normalisation import pixel_normalisation
from unshaken.layouts.prefix_search import read_as
from unshaken.layouts.published import LAYOUTS, NONE
from unshaken.layouts.weight_matching import Reading
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder
from unshaken.nets.resnet import KINDS, SMALL
from unshaken.nets.torch_files import real


def import_checkpoint(
    foreign: ForeignCheckpoint, options: ImportOptions = ImportOptions(), facts: Facts = Facts()
) -> ImportedModel:
    """Import a checkpoint. ValueError if a weight of the network is missing or the file has unexpected weights.

    facts  what a configuration beside the file says of an encoder
    """
    if options.network is None and options.layout not in LAYOUTS and not options.drop:
        encoder = read_encoder(foreign, options.facts.over(facts), options.layout, options.key, options.prefix)
        if encoder is not None:
            return import_encoder(foreign, encoder, options)
    reading, family = find_weights(foreign, options)
    layout = reading.layout
    report = {"file": f"{foreign.name}, {reading.place}{_other_entries(foreign, reading)}"}
    report["layout"] = f"{family.layout}: {family.what}" if family else f"{layout.name}: {layout.what}"
    if family:
        options = replace(options, network=family.network)
    if foreign.skipped:
        report["not run"] = f"{', '.join(foreign.skipped[:6])}: code that the file names, skipped"
    backbone = _backbone(reading, options, report, family)
    encoder = with_routes(backbone.build(), reading.routes) if reading.routes else backbone.build()
    _fill(encoder, reading, foreign, report)
    report["routes"] = _routes(reading)
    head = _head(foreign, reading, encoder, options, report)
    report["dropped"] = ", ".join(f"{what} ({count})" for what, count in reading.dropped.items()) or "nothing"
    method, data = _identity(reading, options, report)
    origin = {
        "recipe": recipe_of(method, data),
        "file": {"name": foreign.name, "sha256": foreign.sha256},
        "layout": family.layout if family else layout.name,
        "reading": {"key": reading.container.key, "prefix": reading.prefix, "drop": list(options.drop)},
        "dropped": dict(reading.dropped),
        "said": dict(report),
    }
    return ImportedModel(encoder.eval(), backbone, {"pretrain": origin}, report, head)


def find_weights(foreign: ForeignCheckpoint, options: ImportOptions) -> tuple[Reading, Translated | None]:
    """Return the weights of a file by our names, and its family if the names were translated to timm's first."""
    family = None
    if options.network is None and options.layout is None:
        family = translated(foreign, options.key, options.prefix)
    if family is None:
        return read_as(foreign, options.wanted), None
    return read_as(family.foreign, replace(options, network=family.network, prefix=None).wanted), family


def _other_entries(foreign: ForeignCheckpoint, reading: Reading) -> str:
    others = [name for name in foreign.entries if "." not in name and name != reading.container.key.partition(".")[0]]
    return f" beside {', '.join(others[:8])}" if others else ""


def _identity(reading: Reading, options: ImportOptions, report: dict[str, str]) -> tuple[str, str]:
    """Return the method and the image set: those that the user named, else those of the layout, else UNKNOWN."""
    methods = reading.layout.methods
    method = options.method or (methods[0] if len(methods) == 1 else UNKNOWN)
    data = options.data or reading.layout.data or UNKNOWN
    if method == UNKNOWN:
        may = f"{', '.join(methods)} write such files" if methods else "many methods write such files"
        report["method"] = f"unknown: {may} (name it with --method, for its presets and citations)"
    else:
        report["method"] = method + ("" if options.method else " (the only one that writes such files)")
    if data == UNKNOWN:
        report["trained on"] = "unknown (name the set with --data)"
    else:
        report["trained on"] = data if options.data else f"{data} (name another set with --data)"
    return method, data


def _backbone(
    reading: Reading, options: ImportOptions, report: dict[str, str], family: Translated | None = None
) -> Backbone:
    name, kernel = reading.network, reading.kernel
    if options.network:
        stem = reading.image_size
        report["network"] = f"{name}, for images of {stem} pixels"
    else:
        stem = options.image_size or (32 if kernel == 3 else reading.layout.image_size)
        if (stem <= SMALL) != (kernel == 3):
            which = f"up to {SMALL}" if kernel == 3 else f"more than {SMALL}"
            raise ValueError(
                f"a {kernel}x{kernel} first convolution is for images of {which} pixels, not for --image-size {stem}"
            )
        guess = "recognised by its shape" if kernel == 3 else "assumed: if it is another, name it with --image-size"
        how = "as given" if options.image_size else guess
        report["network"] = f"{name}, {kernel}x{kernel} first convolution, for images of {stem} pixels ({how})"
    given = None if options.mean is None or options.std is None else (options.mean, options.std)
    if family and given is None and options.normalisation is None:
        normalisation, why = family.normalisation, "not in the file; the one of such networks' own code"
    else:
        normalisation, why = pixel_normalisation(reading, given, options.normalisation, options.method)
    mean, std = normalisation
    none = set(mean) == set(NONE[0]) and set(std) == set(NONE[1])
    report["normalisation"] = f"{'none' if none else f'mean {list(mean)}, std {list(std)}'} ({why})"
    padding = _padding(kernel == 3 and name in KINDS, reading, options, report)
    return Backbone(name, stem, reading.channels, mean, std, padding=padding)  # pyright: ignore[reportArgumentType]


def _padding(free: bool, reading: Reading, options: ImportOptions, report: dict[str, str]) -> Literal[1, 2]:
    """Return the padding of the first convolution, which no weight shows: from the user, else from the layout.

    ValueError if files of this layout differ in it.
    """
    if not free:
        return options.padding or 1  # the network refuses any other value, and says why
    if options.padding is None and reading.layout.padding is None:
        raise ValueError(
            "the file does not say how its 3x3 first convolution is padded, and files of this layout differ in it: "
            "give --padding 2 if it is solo-learn's, --padding 1 if it is not"
        )
    padding = options.padding or reading.layout.padding
    guess = f"assumed, because no file says it: if it is wrong, --padding {2 if padding == 1 else 1}"
    report["padding"] = f"{padding} ({'as given' if options.padding else guess})"
    return padding  # pyright: ignore[reportReturnType]


def _fill(encoder: Encoder, reading: Reading, foreign: ForeignCheckpoint, report: dict[str, str]) -> None:
    """Load every weight into the encoder. ValueError if one has numbers that are not finite."""
    expected = encoder.backbone.state_dict()
    taken = {name: real(tensor, name, foreign.name) for name, tensor in reading.weights.items()}
    counters = [name for name in expected if name.endswith("num_batches_tracked") and name not in taken]
    encoder.backbone.load_state_dict(taken | {name: torch.zeros_like(expected[name]) for name in counters})
    zero = f", {len(counters)} counters of batches set to 0" if counters else ""
    report["weights"] = f"all {len(expected)} found{zero}"


def _routes(reading: Reading) -> str:
    layout = reading.layout
    if layout.only is not None:
        return f"none: only branch {layout.only}, the adversarial one, is imported"
    if not reading.routes:
        return "none: one batch norm for all images"
    return ", ".join(f"{route} is branch {layout.routes.index(route)}" for route in reading.routes)


def _head(
    foreign: ForeignCheckpoint, reading: Reading, encoder: Encoder, options: ImportOptions, report: dict[str, str]
) -> nn.Linear | None:
    """Return the linear classifier of the file, if it has exactly one and its weights are not all zero."""
    found = dict(reading.heads) or dict(_elsewhere(foreign, reading, encoder.features))
    projects = reading.prefix.endswith(("encoder_q.", "encoder_k."))  # of a contrastive pair: a projection head
    if not options.classifier or projects or len(found) != 1:
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
            "(leave it out with --no-classifier)"
        )
    if not bool(weight.any()):
        reading.dropped["classifier of zeros"] += len(tensors)
        return None
    head = zero_classifier(encoder.features, rows)
    head.load_state_dict({"weight": weight, "bias": torch.zeros(rows) if bias is None else bias})
    report["classifier"] = f"{rows} classes" + (" (without a bias)" if bias is None else "")
    return head


def _elsewhere(foreign: ForeignCheckpoint, reading: Reading, features: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Iterate over linear layers for these features that have a dictionary of their own, as in AdvCL's files."""
    for container in foreign.containers:
        if container is reading.container or container.key.rpartition(".")[2] not in ("classifier", "fc", "linear"):
            continue
        parts = {name.rpartition(".")[2]: tensor for name, tensor in container.tensors.items()}
        weight = parts.get("weight")
        with_one_route = len(container.tensors) == len(parts) and parts.keys() <= {"weight", "bias"}
        if with_one_route and weight is not None and weight.ndim == 2 and weight.shape[1] == features:
            yield container.key, parts
