"""A published checkpoint as an encoder of ours, with its routes; what was recognised, assumed and dropped is said."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unshaken.base.canon import plain
from unshaken.base.files import write_json
from unshaken.base.ranges import Number, Positive, ranged
from unshaken.exchange.classes import CLASSES, names_of
from unshaken.exchange.fingerprint import fingerprint
from unshaken.exchange.layouts import CIFAR, LAYOUTS, NORMALISATIONS, Layout, Normalisation
from unshaken.exchange.opening import Opened
from unshaken.exchange.reading import Foreign, read
from unshaken.nets.backbone import Backbone, timm_encoder
from unshaken.nets.embed import Encoder, Network
from unshaken.nets.heads import zero_classifier
from unshaken.nets.resnet import KINDS, BasicBlock, Bottleneck, Stem
from unshaken.nets.routed import alone, routed
from unshaken.nets.saved import digest, read_tensors, save_classifier, save_encoder

UNKNOWN = "unknown"
"""The seed of what others trained: a file does not say it, and no number would be true."""


@dataclass(frozen=True)
@ranged
class Importing:
    """Where the encoder goes, and what the user knows of the file; None leaves that to the file and its layout."""

    out: Path | None = None
    """A folder, or a file NAME.safetensors; runs/ and the file's name if it is not given."""
    layout: str | None = None
    """Which one the file has, if it is not recognised rightly."""
    normalisation: Literal["imagenet", "cifar", "none"] | None = None
    """What the network does to pixels in [0, 1] first."""
    mean: tuple[Number, ...] | None = None
    """Of the normalisation, one a channel; with --std."""
    std: tuple[Positive, ...] | None = None
    padding: Literal[1, 2] | None = None
    """Of a 3x3 stem: 2 for DeACL's."""
    stem: Literal[8, 32, 96, 224] | None = None
    """For images of which side: a 7x7 stem is of 96 or 224 pixels, and no file says of which."""
    method: str | None = None
    """The paper's: acl, acl-air, dynacl, dynacl-air, advcl, ...; presets of fine-tuning go by it."""
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
            near = get_close_matches(self.layout, LAYOUTS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"there is no layout {self.layout!r}{hint}; there are {', '.join(LAYOUTS)}")


@dataclass(frozen=True, eq=False)
class Imported:
    """An encoder that a file held, what was said of it, and the classifier on it if there was one."""

    encoder: Encoder
    backbone: Backbone
    about: dict[str, Any]
    said: dict[str, str]
    head: nn.Linear | None = None


def imported(foreign: Foreign, known: Importing = Importing()) -> Imported:
    """Strictly: ValueError if any weight is missing or left over."""
    layout = _layout(foreign, known)
    found = _translated(foreign, layout)
    said = {"file": f"{foreign.name}, {foreign.place}{_beside(foreign)}", "layout": f"{layout.name}: {layout.what}"}
    backbone = _backbone(found, layout, known, said)
    routes = tuple(route for route in layout.routes if any(f".routes.{route}." in name for name in found.weights))
    encoder = routed(backbone.build(), routes) if routes else backbone.build()
    _fill(encoder, found, foreign, said)
    said["routes"] = _routes(layout, routes)
    head = _head(found, encoder, said)
    said["dropped"] = ", ".join(f"{what} ({count})" for what, count in found.dropped.items()) or "nothing"
    method = known.method or layout.method
    data = known.data or ("stl10" if backbone.stem == 96 else layout.data)
    said["method"] = f"{method}, trained on {data} (--method and --data, if it was another)"
    origin = {
        "recipe": _recipe(method, data),
        "file": {"name": foreign.name, "sha256": foreign.sha256},
        "layout": layout.name,
        "dropped": dict(found.dropped),
        "said": dict(said),
    }
    return Imported(encoder.eval(), backbone, {"pretrain": origin}, said, head)


def _recipe(name: str, data: str, **others: Any) -> dict[str, Any]:
    """What stands where a recipe of ours would."""
    return {"type": "Imported", "name": name, "data": {"type": "Source", "name": data}, "seed": UNKNOWN} | others


def _beside(foreign: Foreign) -> str:
    return f" beside {', '.join(foreign.beside)}" if foreign.beside else ""


def _layout(foreign: Foreign, known: Importing) -> Layout:
    if known.layout:
        return LAYOUTS[known.layout]
    names = [name.removeprefix("module.") for name in foreign.tensors]
    found = next((layout for layout in LAYOUTS.values() if layout.fits(names, foreign.beside)), None)
    if found is None:
        raise ValueError(
            f"{foreign.name} is of no layout that is known here; its first weights are {', '.join(names[:3])} "
            "(`unshaken import --help` lists the layouts, --layout NAME names one)"
        )
    return found


@dataclass(frozen=True, eq=False)
class _Found:
    """Weights by the names of our backbone, and what was among them."""

    weights: dict[str, Tensor]
    normalize: dict[str, Tensor]
    head: dict[str, Tensor]
    dropped: Counter[str]
    strange: list[str]


def _translated(foreign: Foreign, layout: Layout) -> _Found:
    found = _Found({}, {}, {}, Counter(), [])
    for full, tensor in foreign.tensors.items():
        name = full.removeprefix("module.")
        if what := layout.dropped(name):
            found.dropped[what] += 1
            continue
        new = layout.renamed(name)
        kept = found.weights
        if new is not None and (part := re.fullmatch(r"(normalize|fc|linear)\.(mean|std|weight|bias)", new)):
            kept, new = (found.normalize if part[1] == "normalize" else found.head), part[2]
        if new is None or new in kept:
            found.strange.append(full)
        else:
            kept[new] = tensor
    return found


def _backbone(found: _Found, layout: Layout, known: Importing, said: dict[str, str]) -> Backbone:
    name, conv = _network(found.weights)
    channels, kernel = conv.shape[1], conv.shape[-1]
    sides = (32, 8) if kernel == 3 else (layout.wide, 96 + 224 - layout.wide)
    stem: Stem = known.stem or sides[0]
    if stem not in sides:
        raise ValueError(f"a {kernel}x{kernel} stem is for {sides[0]} or {sides[1]} pixels, not for {stem}")
    how = "as given" if known.stem else "recognised by its shape" if kernel == 3 else "assumed: --stem if not"
    said["network"] = f"{name}, {kernel}x{kernel} stem for {stem} pixels ({how})"
    mean, std = _normalisation(found, layout, known, said)
    padding = _padding(kernel == 3 and name in KINDS, bool(found.normalize), (mean, std), layout, known, said)
    return Backbone(name, stem, channels, mean, std, padding=padding)


def _network(weights: dict[str, Tensor]) -> tuple[str, Tensor]:
    """Its name by blocks and shapes, and the first convolution."""
    conv = weights.get("conv1.weight")
    if conv is None or conv.ndim != 4 or conv.shape[-1] not in (3, 7):
        raise ValueError("there is no conv1.weight of 3x3 or 7x7, so this is no ResNet that is known here")
    wide = _count(weights, r"block1\.layer\.(\d+)\.")
    if wide:
        first = weights.get("block1.layer.0.conv1.weight")
        width = first.shape[0] // 16 if first is not None else 0
        return f"wrn-{6 * wide + 4}-{width}", conv
    stages = _count(weights, r"layer(\d+)\.") - 1
    blocks = tuple(_count(weights, rf"layer{stage + 1}\.(\d+)\.") for stage in range(stages))
    kind = Bottleneck if any(name.startswith("layer1.0.conv3.") for name in weights) else BasicBlock
    row = (kind, blocks, conv.shape[0])
    name = next((name for name, each in KINDS.items() if each == row), None)
    if name is None:
        raise ValueError(f"a ResNet with {blocks} blocks of first width {row[2]} is none of {', '.join(KINDS)}")
    return name, conv


def _count(names: dict[str, Tensor], pattern: str) -> int:
    """One more than the highest number at a place in the names; 0 if there is none."""
    return max((int(at[1]) + 1 for name in names if (at := re.match(pattern, name))), default=0)


def _normalisation(found: _Found, layout: Layout, known: Importing, said: dict[str, str]) -> Normalisation:
    if known.mean is not None and known.std is not None:
        chosen, why = (known.mean, known.std), "as given"
    elif known.normalisation:
        chosen, why = NORMALISATIONS[known.normalisation], "as given"
    elif {"mean", "std"} <= found.normalize.keys():
        # as decimals, which is how a float32 was meant
        mean, std = (tuple(float(f"{v:.7g}") for v in found.normalize[part].flatten()) for part in ("mean", "std"))
        chosen, why = (mean, std), "from the file"
    elif layout.normalisation:
        chosen, why = layout.normalisation, "not in the file; as this layout's paper has it"
    else:
        raise ValueError(
            "the file does not say how its network normalises pixels, and those who write such files differ: say it by "
            "--normalisation imagenet, cifar or none, or by --mean and --std; or whose file it is by --layout NAME "
            "(sat, rocl, ...)"
        )
    mean, std = chosen
    none = chosen == NORMALISATIONS["none"]
    said["normalisation"] = f"{'none' if none else f'mean {list(mean)}, std {list(std)}'} ({why})"
    return chosen


def _padding(
    free: bool, stated: bool, normalisation: Normalisation, layout: Layout, known: Importing, said: dict[str, str]
) -> Literal[1, 2]:
    """No weight shows it. What Lightning wrote is DeACL's unless its normalisation is another than DeACL's."""
    if not free:
        return known.padding or 1  # another is refused by the network, which knows why
    pairs = zip((v for part in normalisation for v in part), (v for part in CIFAR for v in part), strict=False)
    others = stated and any(abs(a - b) > 1e-3 for a, b in pairs)
    padding = known.padding or (1 if others else layout.padding)
    why = "as given" if known.padding else f"assumed, for no file says it: --padding {3 - padding} if not"
    said["padding"] = f"{padding} ({why})"
    return padding


def _fill(encoder: Encoder, found: _Found, foreign: Foreign, said: dict[str, str]) -> None:
    """Every weight finds its place and every place its weight, or nothing is taken."""
    expected = encoder.backbone.state_dict()
    counters = [name for name in expected if name.endswith("num_batches_tracked") and name not in found.weights]
    missing = [name for name in expected if name not in found.weights and name not in counters]
    strange = found.strange + [name for name in found.weights if name not in expected]
    other = [name for name in expected if name in found.weights and found.weights[name].shape != expected[name].shape]
    faults = [
        f"{len(names)} {what}, the first is {names[0]}"
        for names, what in ((missing, "missing"), (strange, "left over"), (other, "of another shape"))
        if names
    ]
    if faults:
        network = said["network"].split(",")[0]
        raise ValueError(f"{foreign.name} does not fill a {network} by its layout {said['layout'].split(':')[0]}: "
                         f"weights {'; '.join(faults)}. Nothing was taken")  # fmt: skip
    encoder.backbone.load_state_dict(found.weights | {name: torch.zeros_like(expected[name]) for name in counters})
    said["weights"] = f"all {len(expected)} found" + (f", {len(counters)} counters of batches at 0" if counters else "")


def _routes(layout: Layout, routes: tuple[str, ...]) -> str:
    if not routes:
        return "none: one batch norm for all images"
    return ", ".join(f"{route} is branch {layout.routes.index(route)}" for route in routes)


def _head(found: _Found, encoder: Encoder, said: dict[str, str]) -> nn.Linear | None:
    """A plain linear classifier, if the file has one that has learned anything."""
    if not found.head:
        return None
    weight, bias = found.head.get("weight"), found.head.get("bias")
    if weight is None or bias is None or weight.shape != (len(bias), encoder.features):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in found.head.items())
        raise ValueError(f"the classifier in the file does not fit {encoder.features} features: it has {shapes}")
    if not bool(weight.any()):
        found.dropped["classifier of zeros"] += 2
        return None
    head = zero_classifier(encoder.features, len(bias))
    head.load_state_dict({"weight": weight, "bias": bias})
    said["classifier"] = f"{len(bias)} classes"
    return head


@dataclass(frozen=True)
class Written:
    """Where things are: the encoder, and the folder of the classifier if there was one; and what was said."""

    encoder: Path
    classifier: Path | None
    said: dict[str, str]


def import_file(path: Path, known: Importing = Importing()) -> Written:
    """Read a checkpoint of somebody else's and write ours. ValueError, in one sentence, for all that goes wrong."""
    return write(imported(read(path), known), known.out or Path("runs") / path.name.split(".")[0], known)


def import_timm(name: str, known: Importing = Importing()) -> Written:
    """timm/NAME: a network of timm's with the weights that timm has for it, downloaded if they are not there."""
    others = [field for field in ("layout", "padding", "classes", "mode") if getattr(known, field) is not None]
    if others:
        raise ValueError(f"--{others[0]} is for files; {name} is taken as timm has it")
    try:
        encoder, backbone = timm_encoder(name, known.stem)
    except OSError as error:
        raise ValueError(f"the weights of {name} were not to be had: {str(error).split('. ')[0]}") from None
    if known.mean or known.normalisation:
        mean, std = (known.mean, known.std) if known.mean else NORMALISATIONS[known.normalisation]
        backbone = replace(backbone, mean=mean, std=std)
        encoder.normalize = backbone.build().normalize
    said = {
        "network": f"{backbone.name}, for {backbone.stem} pixels",
        "normalisation": f"mean {list(backbone.mean)}, std {list(backbone.std)}",
        "routes": "none: timm's networks have one batch norm for all images, or none",
        "dropped": "timm's classifier",
    }
    recipe = _recipe(known.method or "imported", known.data or "imagenet")
    origin = {"recipe": recipe, "file": {"name": name}, "layout": "timm", "dropped": {"classifier": 2}, "said": said}
    what = Imported(encoder.eval(), backbone, {"pretrain": origin}, said)
    return write(what, known.out or Path("runs") / name.replace("/", "-"), known)


def write(what: Imported, out: Path, known: Importing = Importing()) -> Written:
    """The encoder with its fingerprint, and a run of fine-tuning for `unshaken evaluate` if there is a classifier."""
    file = out if out.suffix == ".safetensors" else out / "encoder.safetensors"
    _spare(file, what.about["pretrain"]["file"])
    names = None
    if what.head is not None and known.classifier:
        names = names_of(known.classes, what.head.out_features)
    taken = fingerprint(Opened(what.encoder, what.backbone, {}))
    save_encoder(file, what.encoder, what.backbone, what.about | {"fingerprint": taken})
    said = what.said | {"digest": taken["weights"]}
    if names is None:
        return Written(file, None, said)
    named = known.classes if known.classes in CLASSES else None
    tuned = known.tuned or named or what.about["pretrain"]["recipe"]["data"]["name"]
    run = file.parent / "-".join((*((out.stem,) if file == out else ()), known.mode or "imported", Path(tuned).stem))
    _write_classifier(run, what, names, known.mode or "imported", tuned)
    names = "named as given" if known.classes else "without names: --classes cifar10, say, if they are true classes"
    return Written(file, run, said | {"classifier": f"{said['classifier']}, {names}"})


def _write_classifier(run: Path, what: Imported, names: tuple[str, ...], mode: str, tuned: str) -> None:
    """As a finished run of fine-tuning: the adversarial route alone, as the papers judge it."""
    net = Network(alone(what.encoder, "adv"), what.head).eval()
    recipe = _recipe(what.about["pretrain"]["recipe"]["name"], tuned, method={"type": mode})
    finetune = {"recipe": recipe, "data": {"encoder": digest(what.encoder)}}
    about = {"finetune": finetune, "pretrain": what.about["pretrain"]}
    about["fingerprint"] = fingerprint(Opened(net, what.backbone, {}))
    save_classifier(run / "classifier.safetensors", net, what.backbone, names, about)
    write_json(run / "recipe.json", {"recipe": plain(recipe), "data": finetune["data"]})
    write_json(run / "run.json", {"digest": digest(net), "seconds": None, "world": {}})


def _spare(file: Path, origin: dict[str, str]) -> None:
    """What is there already is kept, unless it came from the same file."""
    if file.exists() and read_tensors(file)[1].get("pretrain", {}).get("file") != origin:
        raise ValueError(f"{file} is there already, and comes from elsewhere; choose another --out")
