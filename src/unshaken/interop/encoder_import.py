"""Import of a published encoder: the file is recognised, and every weight is placed"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unshaken.data.source import UNKNOWN
from unshaken.interop.import_options import ImportedModel, ImportOptions, recipe_of
from unshaken.layouts.encoder_facts import Facts, Unsaid
from unshaken.layouts.encoder_layouts import ENCODER_LAYOUTS, EncoderLayout
from unshaken.layouts.foreign import Container, ForeignCheckpoint
from unshaken.nets.backbone import Backbone
from unshaken.nets.clip_convnext import ClipConvNeXt
from unshaken.nets.clip_resnet import ClipResNet
from unshaken.nets.name_rules import HOLE, Rule, names_within, parent, placed
from unshaken.nets.torch_files import real
from unshaken.nets.variants import AnyVariant

SPARE = ("head.weight", "attn_pool.", "norm.", "fc_norm.")
"""Our names that only some poolings use; with another, these weights stay in the original file alone."""


FIRST = ("patch_embed.proj.weight", "stem.conv1.conv.weight", "stem.0.weight")
"""Our names of the first convolution, which tells the number of channels."""


@dataclass(eq=False)
class EncoderReading:
    """One way to read a file: the tensors under one prefix as the weights of an encoder.

    rules  the rules that apply, with the numbers of blocks
    spare  weights that the chosen embedding does not need
    error  why the file cannot be read this way; empty if it can
    asks   the error is only that the user has to name something
    """

    container: Container
    prefix: str
    layout: EncoderLayout
    facts: Facts
    rules: list[Rule] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    spare: list[str] = field(default_factory=list)
    backbone: Backbone | None = None
    error: str = ""
    asks: bool = False

    @property
    def place(self) -> str:
        return str(self.container) + (f", names begin with {self.prefix!r}" if self.prefix else "")

    def within(self) -> dict[str, Any]:
        """Return the tensors by their names after the prefix; those beside the network begin with `../`."""
        names = names_within(self.container.tensors, self.prefix)
        return {name: self.container.tensors[full] for name, full in names.items()}

    def full_name(self, name: str) -> str:
        """Return the name in the file of one of `within`."""
        return self.prefix + name if not name.startswith("../") else parent(self.prefix) + name.removeprefix("../")

    def weights(self, file: str) -> dict[str, Tensor]:
        """Return the encoder's weights by our names, in float32."""
        shapes = our_shapes(self.backbone)  # pyright: ignore[reportArgumentType]
        tensors, found = self.within(), {}
        for rule in self.rules:
            parts = {name: real(tensors[name], self.full_name(name), file) for name in rule.theirs}
            found |= rule.read(parts, shapes)
        return found


def our_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights, from a network on the meta device, which takes no memory."""
    with torch.device("meta"):
        net = backbone.build().backbone
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def read_encoder(
    foreign: ForeignCheckpoint, facts: Facts = Facts(), layout: str | None = None, key: str | None = None,
    prefix: str | None = None,
) -> EncoderReading | None:  # fmt: skip
    """Return the reading of a file of an encoder; None if its names are of none. ValueError if it does not fit.

    layout, key, prefix  as the user named them
    """
    tried = list(_readings(foreign, facts, layout, key, prefix))
    if layout is not None and not tried:
        signs = ", ".join(ENCODER_LAYOUTS[layout].signs)
        raise ValueError(f"{foreign.name} is no file of layout {layout}: it has no {signs}; its first weights are "
                         f"{', '.join(list(foreign.containers[0].tensors)[:3])}")  # fmt: skip
    fitting = _preferred([reading for reading in tried if not reading.error or reading.asks])
    if len(fitting) > 1:
        raise ValueError(_choice(foreign, fitting))
    if fitting and not fitting[0].error:
        return fitting[0]
    if tried:
        near = (*fitting, *tried)[0]
        raise ValueError(f"{foreign.name}, {near.place}: {near.error} (with layout {near.layout.name})")
    return None


def _readings(
    foreign: ForeignCheckpoint, facts: Facts, layout: str | None, key: str | None, prefix: str | None
) -> Iterator[EncoderReading]:
    rows = [ENCODER_LAYOUTS[layout]] if layout else list(ENCODER_LAYOUTS.values())
    for container in foreign.containers:
        if key not in (None, container.key):
            continue
        for row in rows:
            for start in row.prefixes(container.tensors, facts, layout is not None):
                if prefix is None or start == prefix + ("." if prefix and not prefix.endswith(".") else ""):
                    yield _attempt(EncoderReading(container, start, row, facts.over(row.facts)))


def _attempt(reading: EncoderReading) -> EncoderReading:
    """Place all names, and describe the network that has these shapes."""
    try:
        tensors, row = reading.within(), reading.layout
        reading.rules, left = placed(row.rules, tensors)
        for name in left:
            what = next((what for what, pattern in row.beside if re.match(pattern, name)), None)
            if what is None and not name.startswith("../"):
                raise ValueError(f"its weight {reading.full_name(name)} is of no such network")
            reading.dropped[what or "weights beside the network"] += 1
        if lacks := [name for rule in reading.rules for name in rule.theirs if name not in tensors]:
            raise ValueError(f"its weight {reading.full_name(lacks[0])} is missing")
        shapes = {r.ours[0]: tuple(tensors[r.theirs[0]].shape) for r in reading.rules if len(r.ours) == 1}
        for rule in reading.rules:
            if rule.transposed:
                shapes[rule.ours[0]] = shapes[rule.ours[0]][::-1]
        parts = (name for rule in reading.rules if len(rule.ours) > 1 for name in rule.ours)
        shapes |= dict.fromkeys(parts, ())  # that they are there is all that is looked at
        if "head.weight" in shapes:  # (out, in): the projection's width comes last in `vit_of`
            shapes["head.weight"] = shapes["head.weight"][::-1]
        _describe(reading, shapes, tensors)
    except Unsaid as error:
        reading.error, reading.asks = str(error), True
    except (ValueError, KeyError, IndexError) as error:
        lacking = f"its weight {error.args[0]} is missing" if isinstance(error, KeyError) else None
        reading.error = lacking or str(error) or "its shapes are of no such network"
    return reading


def _describe(reading: EncoderReading, shapes: dict[str, tuple[int, ...]], tensors: dict[str, Any]) -> None:
    """Set the network of a reading, and compare its weights with those of the file."""
    facts = reading.facts
    variant = reading.layout.build(shapes, facts)
    mean, std = facts.normalisation or _ask_normalisation()
    channels = shapes[next(name for name in FIRST if name in shapes)][1]
    side = facts.side or variant.side
    reading.backbone = Backbone(variant.name, side, channels, tuple(mean), tuple(std), variant=variant)
    expected = our_shapes(reading.backbone)
    held = {name for rule in reading.rules for name in rule.ours if name != HOLE}
    reading.spare = [name for name in held - set(expected) if name.startswith(SPARE)]
    if missing := sorted(set(expected) - held):
        raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]}")
    if unexpected := sorted(held - set(expected) - set(reading.spare)):
        raise ValueError(f"{len(unexpected)} weights are of no such network, the first is {unexpected[0]}")
    reading.rules = [rule for rule in reading.rules if not set(rule.ours) & set(reading.spare)]
    empty = {name: torch.empty(tuple(tensor.shape), device="meta") for name, tensor in tensors.items()}
    for rule in reading.rules:
        try:
            rule.read(empty, expected)
        except (ValueError, RuntimeError):
            raise ValueError(f"its weight {reading.full_name(rule.theirs[0])} has another shape") from None


def _ask_normalisation() -> Any:
    raise Unsaid(
        "no file says how its network normalises pixels: give --normalisation imagenet, or --mean and --std "
        "(0.5 0.5 0.5 for most ViTs of Google)"
    )


def _preferred(fitting: list[EncoderReading]) -> list[EncoderReading]:
    """Leave out a student where its teacher is in the file too: the teacher of DINO is what is used."""
    teachers = [each for each in fitting if "teacher" in each.place]
    return teachers if teachers and len(teachers) < len(fitting) else fitting


def _choice(foreign: ForeignCheckpoint, fitting: list[EncoderReading]) -> str:
    layouts = list(dict.fromkeys(each.layout.name for each in fitting))
    if len(layouts) > 1:
        what = "; ".join(f"--layout {name}: {ENCODER_LAYOUTS[name].what}" for name in layouts)
        return f"the names in {foreign.name} are those of several kinds of encoders, so say which it is ({what})"
    ways = "; ".join(f"--key {each.container.key or repr('')} --prefix {each.prefix or repr('')}" for each in fitting)
    return f"{foreign.name} holds {len(fitting)} encoders: choose one ({ways})"


def import_encoder(foreign: ForeignCheckpoint, reading: EncoderReading, options: ImportOptions) -> ImportedModel:
    """Import an encoder. Its file is recorded, for an export with the names, order and dtypes of the original."""
    _refuse_others(options, reading)
    backbone, layout = reading.backbone, reading.layout
    assert backbone is not None
    assert backbone.variant is not None
    encoder = backbone.build()
    encoder.backbone.load_state_dict(reading.weights(foreign.name))
    report = {
        "file": f"{foreign.name}, {reading.place}",
        "layout": f"{layout.name}: {layout.what}",
        "network": ", ".join(_said(reading, options)),
        "embedding": f"{embedding_of(backbone.variant)}, {encoder.features} numbers",
        "normalisation": f"mean {list(backbone.mean)}, std {list(backbone.std)}",
        "preprocessing": f"published: {reading.facts.interpolation or 'unknown'}; here: the shorter side is resized "
        "(bicubic), the centre cut out",
        "weights": f"all {len(encoder.backbone.state_dict())} found",
        "routes": "none: one batch norm for all images, or none",
        "dropped": ", ".join(f"{what} ({count})" for what, count in reading.dropped.items()) or "nothing",
    }
    report |= {"not used": f"{', '.join(sorted(reading.spare))}, with this embedding"} if reading.spare else {}
    method, data = options.method or UNKNOWN, options.data or UNKNOWN
    place = {"key": reading.container.key, "prefix": reading.prefix, "drop": []}
    origin = {"recipe": recipe_of(method, data), "file": {"name": foreign.name, "sha256": foreign.sha256}}
    origin |= {"layout": layout.name, "reading": place, "dropped": dict(reading.dropped), "said": dict(report)}
    return ImportedModel(encoder.eval(), backbone, {"pretrain": origin}, report)


EMBEDDINGS = {
    "class": "the class token",
    "mean": "the mean of the patch tokens",
    "projection": "the projected class token",
    "attention": "the tokens pooled by attention",
}
OF_MAPS = {ClipResNet: "the map pooled by attention and projected", ClipConvNeXt: "the projected average of the map"}
"""Embeddings of the networks that have no class token."""


def embedding_of(variant: AnyVariant) -> str:
    """Describe an encoder's embedding in words."""
    return OF_MAPS.get(type(variant)) or EMBEDDINGS[variant.pool]


def _said(reading: EncoderReading, options: ImportOptions) -> Iterator[str]:
    """Describe the network; what was assumed is said with the option that changes it."""
    backbone, variant = reading.backbone, reading.backbone.variant
    assert backbone is not None
    assert variant is not None
    yield f"{backbone.name}, {variant.activation}"
    if variant.heads:
        yield f"{variant.heads} heads" + ("" if reading.facts.heads else " (assumed from the width; --heads)")
    own = "" if backbone.image_size == variant.side else f", position embeddings of {variant.side} resampled"
    yield f"for images of {backbone.image_size} pixels" + ("" if options.image_size else " (--image-size)") + own


def _refuse_others(options: ImportOptions, reading: EncoderReading) -> None:
    """Raise a ValueError for an option that means nothing for this kind of file."""
    given = [name for name in ("padding", "classes", "mode", "classifier_data") if getattr(options, name) is not None]
    if given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for files with batch norms or a classifier, and this is an encoder of "
            f"layout {reading.layout.name}: leave it out"
        )
