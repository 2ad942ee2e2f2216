"""Encoders and classifiers as safetensors files that say how to rebuild the network."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unshaken.base.checksum import FIELD
from unshaken.base.json_files import parse_json, write_bytes
from unshaken.base.json_shapes import Each, Items, Number, Or, Shape, Whole, check_shape, shown
from unshaken.base.python_words import in_python
from unshaken.base.serialize import to_json
from unshaken.base.tensor_file import Entry, Header, check_seal, read_tensor_file, seal, sealed
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import routes_of, set_route, with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder, Network
from unshaken.nets.own_nets import GIVEN
from unshaken.nets.variants import variant_of

FORMAT = "unshaken/1"


RECIPE = {
    "type?": str,
    "name?": str,
    "seed?": Or((Whole(), str, None)),
    "data?": {"name?": str},
    "method?": {"type?": str},
}
ORIGIN = {"recipe?": RECIPE, "data?": {}, "file?": {"name": str, "sha256?": str}}
ABOUT = {
    "kind?": str,
    "pretrain?": ORIGIN,
    "finetune?": ORIGIN,
    "fingerprint?": {"version": Whole(), "weights": str, "answers": Each(str)},
}
BACKBONE = {
    "name": str,
    "image_size": Whole(1, 1 << 12),
    "channels": Whole(1, 1 << 10),
    "mean": Items(Number(), 1),
    "std": Items(Number(), 1),
    "padding?": Whole(0, 64),
    "variant?": {"type": str},
    "args?": str,
    "code?": str,
}
NETWORK = ABOUT | {"kind": str, "backbone": BACKBONE}
ENCODER = NETWORK | {"routes": Items(str)}
CLASSIFIER = NETWORK | {"names": Items(str, 1)}
"""The shapes of the header's JSON, by kind of file."""
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors atomically, with `about` in the header and a checksum of the entire file."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, *seal(save(stored, sealed({"format": FORMAT, "about": json.dumps(about, allow_nan=False)}))))


def is_own(path: Path) -> bool:
    """Return whether a safetensors file says that unshaken wrote it."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_tensors(path: Path, shape: Shape = ABOUT) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: the tensors, and `about`, which is checked against `shape`.

    ValueError, in one line that names the file, if unshaken did not write the file or if any bit of it has changed.
    """
    content, header = read_tensor_file(path)
    about = _about(path, header, shape)
    check_seal(content, header, path)
    return {name: _tensor(content, entry, path) for name, entry in header.tensors.items()}, about


def checksum_in(path: Path) -> str:
    """Return the checksum of a file of ours, after checking it."""
    content, header = read_tensor_file(path)
    _about(path, header, ABOUT)
    check_seal(content, header, path)
    return header.metadata[FIELD]


def add_checksum(path: Path) -> None:
    """Rewrite a file of an earlier version with a checksum. ValueError if it has a wrong one."""
    content, header = read_tensor_file(path)
    about = _about(path, header, ABOUT)
    if FIELD in header.metadata:
        check_seal(content, header, path)
    else:
        write_tensors(path, {name: _tensor(content, each, path) for name, each in header.tensors.items()}, about)


def _about(path: Path, header: Header, shape: Shape) -> dict[str, Any]:
    if header.metadata.get("format") != FORMAT:
        found = shown(header.metadata.get("format"))
        raise ValueError(f"{path} was not written by unshaken: its format is {found}, not {FORMAT!r}")
    return parse_json(header.metadata.get("about", ""), f"the header of {path}", shape)


def _tensor(content: bytearray, entry: Entry, path: Path) -> Tensor:
    if entry.dtype not in DTYPES:
        raise ValueError(f"{path} has a tensor of dtype {entry.dtype}; only {', '.join(DTYPES)} are read")
    if 0 in entry.shape:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    data = memoryview(content)[entry.begin : entry.end]
    return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).view(entry.shape)


def save_encoder(path: Path, encoder: Encoder, backbone: Backbone, about: dict[str, Any]) -> None:
    """Save an encoder with all of its routes; `about` says where it comes from."""
    kind = {"kind": "encoder", "backbone": to_json(backbone), "routes": list(routes_of(encoder))}
    write_tensors(path, encoder.state_dict(), about | kind)


@in_python
def load_encoder(path: Path, *, training: bool = False, route: str = "adv") -> tuple[Encoder, Backbone, dict[str, Any]]:
    """Load an encoder: the network, its Backbone, and the rest of the header.

    The encoder has all of its routes. It is in eval mode, and images take the robust route.

    path      the file, or the folder of a pre-training run
    training  return it in train mode, for further training
    route     the route that images take; the first route if the encoder has none of this name
    """
    net, about = load(_in_run(path, "encoder"), "encoder")
    if routes := tuple(about["routes"]):
        set_route(net, route if route in routes else routes[0])
    return net.train(training), backbone_of(about), about


def save_classifier(
    path: Path, net: Network, backbone: Backbone, names: tuple[str, ...], about: dict[str, Any]
) -> None:
    """Save a classifier, a network without routes whose logits are in the order of `names`."""
    kind = {"kind": "classifier", "backbone": to_json(backbone), "names": list(names)}
    write_tensors(path, net.state_dict(), about | kind)


@in_python
def load_classifier(path: Path) -> tuple[Network, dict[str, Any]]:
    """Load a classifier in eval mode, and its header, in which "names" are the classes.

    path  the file, or the folder of a fine-tuning run
    """
    return load(_in_run(path, "classifier"), "classifier")


def _in_run(path: Path, kind: str) -> Path:
    """Return the file of this kind in a run's folder; any other path as it is."""
    inside = Path(path) / f"{kind}.safetensors"
    return inside if inside.exists() else Path(path)


def load(path: Path, kind: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Load an encoder or a classifier, and its header. ValueError if it is not of the given kind."""
    path = Path(path)
    tensors, about = read_tensors(path)
    wanted = (kind,) if kind else ("encoder", "classifier")
    if about.get("kind") not in wanted:
        kinds = " or ".join(map(repr, wanted))
        raise ValueError(f"{path} is a file of kind {about.get('kind')!r}; a file of kind {kinds} is needed")
    with readable_header(path):
        check_shape(about, ENCODER if about["kind"] == "encoder" else CLASSIFIER, "it")
        backbone = backbone_of(about)
    if not backbone.own:  # what is allowed to run is allowed to fill the memory
        _check_sizes(about, backbone, tensors, path)
    net = _build(about, backbone)
    _fill(net, tensors, path)
    before = about["backbone"].get("code", "")
    if before and not backbone.name.startswith(GIVEN) and before != backbone.code:
        print(f"note: {backbone.name} has been edited since {path} was trained", file=sys.stderr)
    return net.eval(), about


def _build(about: dict[str, Any], backbone: Backbone) -> nn.Module:
    """Build the network that a header describes, without its weights."""
    encoder = backbone.build()
    if about["kind"] == "classifier":
        return Network(encoder, zero_classifier(encoder.features, len(about["names"])))
    return with_routes(encoder, tuple(about["routes"])) if about["routes"] else encoder


def _check_sizes(about: dict[str, Any], backbone: Backbone, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise a ValueError if the header names a network much larger than the file: building it could fill the memory."""
    needed = _size(about["kind"], backbone, tuple(about.get("routes", ())), len(about.get("names", ())))
    held = sum(tensor.numel() for tensor in tensors.values())
    if needed > 2 * held + (1 << 20):
        raise ValueError(
            f"{path} does not fit the network it names: that has {needed:,} numbers, and the file holds {held:,}"
        )


@cache
def _size(kind: str, backbone: Backbone, routes: tuple[str, ...], classes: int) -> int:
    """Return how many numbers a network has; 0 if that cannot be known before its weights are read."""
    about = {"kind": kind, "routes": list(routes), "names": [""] * classes}
    try:
        with torch.device("meta"):  # tensors there have a shape but no memory
            return sum(tensor.numel() for tensor in _build(about, backbone).state_dict().values())
    except (NotImplementedError, RuntimeError):  # some timm networks read their weights during construction
        return 0


def backbone_of(about: dict[str, Any]) -> Backbone:
    fields = {name: value for name, value in about["backbone"].items() if name not in ("type", "code")}
    if fields.get("variant") is not None:
        fields["variant"] = variant_of(fields["variant"])
    return Backbone(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})  # pyright: ignore[reportArgumentType]


def digest(net: nn.Module) -> str:
    """Return 32 hexadecimal digits of a hash of all parameters, buffers and extra state."""
    total = blake2b(digest_size=16)
    for name, value in net.state_dict().items():
        total.update(name.encode())
        if isinstance(value, Tensor):
            total.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
        else:  # from a module with get_extra_state, which may return any object
            total.update(_bytes(value))
    return total.hexdigest()


def _bytes(value: Any) -> bytes:
    """Return a value as bytes, for hashing. A value that cannot be pickled gets random bytes: it equals nothing."""
    try:
        return pickle.dumps(value)
    except Exception:  # pickling runs the object's own code, which may raise anything
        return uuid4().bytes


@contextmanager
def readable_header(path: Path) -> Iterator[None]:
    """Turn errors about missing or unexpected header fields into a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} has a header that this version cannot read ({reason}): is it newer?") from None


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load all weights; a missing or additional tensor is an error."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network it names: {str(error).splitlines()[-1].strip()}") from None
