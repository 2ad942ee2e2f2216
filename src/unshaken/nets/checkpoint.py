"""An encoder or a classifier as one safetensors file that says how to build it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import save
from torch import Tensor, nn

from unshaken.base.checksum import FIELD
from unshaken.base.json_files import parse_json, write_bytes
from unshaken.base.json_shapes import Each, Items, Number, Or, Shape, Whole, check_shape, shown
from unshaken.base.serialize import to_json
from unshaken.base.tensor_file import Entry, Header, check_seal, read_tensor_file, seal, sealed
from unshaken.nets.backbone import Backbone
from unshaken.nets.dual_bn import routes_of, set_route, with_routes
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder, Network

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
}
NETWORK = ABOUT | {"kind": str, "backbone": BACKBONE}
ENCODER = NETWORK | {"routes": Items(str)}
CLASSIFIER = NETWORK | {"names": Items(str, 1)}
"""What the header of a file says, by its kind."""
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
    """Atomically, with `about` in the header, and a checksum of the whole file."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, *seal(save(stored, sealed({"format": FORMAT, "about": json.dumps(about, allow_nan=False)}))))


def read_tensors(path: Path, shape: Shape = ABOUT) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote, whose `about` has a shape.

    ValueError, in one line with the file's name in it, if it is not one of ours, or not bit for bit as it was written.
    """
    content, header = read_tensor_file(path)
    about = _about(path, header, shape)
    check_seal(content, header, path)
    return {name: _tensor(content, entry, path) for name, entry in header.tensors.items()}, about


def checksum_in(path: Path) -> str:
    """The checksum of one of our files, which is checked."""
    content, header = read_tensor_file(path)
    _about(path, header, ABOUT)
    check_seal(content, header, path)
    return header.metadata[FIELD]


def add_checksum(path: Path) -> None:
    """Write a file of an earlier version again, with a checksum. ValueError if it has one that is wrong."""
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
        raise ValueError(f"{path} has numbers of kind {entry.dtype}; known are {', '.join(DTYPES)}")
    if 0 in entry.shape:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    part = memoryview(content)[entry.begin : entry.end]
    return torch.frombuffer(part, dtype=DTYPES[entry.dtype]).view(entry.shape)


def save_encoder(path: Path, encoder: Encoder, backbone: Backbone, about: dict[str, Any]) -> None:
    """Every route is kept; `about` says where the encoder comes from."""
    kind = {"kind": "encoder", "backbone": to_json(backbone), "routes": list(routes_of(encoder))}
    write_tensors(path, encoder.state_dict(), about | kind)


def load_encoder(path: Path, *, training: bool = False, route: str = "adv") -> tuple[Encoder, Backbone, dict[str, Any]]:
    """Return the encoder, the recipe of its network, and what was noted about it.

    The encoder is ready for use: it is in eval mode, and images take the robust route. All of its routes are kept.

    training  return it in train mode, as what is trained further needs it
    route     the route that images take; of an encoder without a route of this name, its first one
    """
    net, about = load(path, "encoder")
    if routes := tuple(about["routes"]):
        set_route(net, route if route in routes else routes[0])
    return net.train(training), backbone_of(about), about


def save_classifier(
    path: Path, net: Network, backbone: Backbone, names: tuple[str, ...], about: dict[str, Any]
) -> None:
    """A plain network (no routes) whose logits are in the order of `names`."""
    kind = {"kind": "classifier", "backbone": to_json(backbone), "names": list(names)}
    write_tensors(path, net.state_dict(), about | kind)


def load_classifier(path: Path) -> tuple[Network, dict[str, Any]]:
    """Return the classifier, in eval mode, and what was noted about it; "names" are its classes."""
    return load(path, "classifier")


def load(path: Path, kind: str | None = None) -> tuple[Any, dict[str, Any]]:
    """An encoder or a classifier, and what was noted about it. ValueError if it is of another kind than the given."""
    path = Path(path)
    tensors, about = read_tensors(path)
    wanted = (kind,) if kind else ("encoder", "classifier")
    if about.get("kind") not in wanted:
        kinds = " or ".join(map(repr, wanted))
        raise ValueError(f"{path} is a file of kind {about.get('kind')!r}; needed is one of kind {kinds}")
    with readable_header(path):
        check_shape(about, ENCODER if about["kind"] == "encoder" else CLASSIFIER, "it")
        backbone = backbone_of(about)
    _check_sizes(about, backbone, tensors, path)
    net = _built(about, backbone)
    _fill(net, tensors, path)
    return net.eval(), about


def _built(about: dict[str, Any], backbone: Backbone) -> nn.Module:
    """The network that a header describes, without its weights."""
    encoder = backbone.build()
    if about["kind"] == "classifier":
        return Network(encoder, zero_classifier(encoder.features, len(about["names"])))
    return with_routes(encoder, tuple(about["routes"])) if about["routes"] else encoder


def _check_sizes(about: dict[str, Any], backbone: Backbone, tensors: dict[str, Tensor], path: Path) -> None:
    """ValueError if the header names a network much larger than what the file holds: it would fill the memory."""
    try:
        with torch.device("meta"):  # where tensors have shapes alone
            needed = sum(tensor.numel() for tensor in _built(about, backbone).state_dict().values())
    except (NotImplementedError, RuntimeError):  # a network of timm's that looks at its numbers as it is made
        return
    held = sum(tensor.numel() for tensor in tensors.values())
    if needed > 2 * held + (1 << 20):
        raise ValueError(
            f"{path} does not fit the network it names: that has {needed:,} numbers, and the file holds {held:,}"
        )


def backbone_of(about: dict[str, Any]) -> Backbone:
    fields = {name: value for name, value in about["backbone"].items() if name != "type"}
    return Backbone(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})  # pyright: ignore[reportArgumentType]


def digest(net: nn.Module) -> str:
    """32 hexadecimal digits that change with any bit of any parameter or buffer, and with any extra state."""
    total = blake2b(digest_size=16)
    for name, value in net.state_dict().items():
        total.update(name.encode())
        if isinstance(value, Tensor):
            total.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
        else:  # of a module with get_extra_state, which may be anything
            total.update(_bytes(value))
    return total.hexdigest()


def _bytes(value: Any) -> bytes:
    """A value in bytes: equal bytes mean equal values. What cannot be written out is equal to nothing."""
    try:
        return pickle.dumps(value)
    except Exception:  # of all kinds: whatever an object's own code does
        return uuid4().bytes


@contextmanager
def readable_header(path: Path) -> Iterator[None]:
    """What a header lacks, or has too much, as a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} has a header that this version cannot read ({reason}): is it newer?") from None


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Strictly: a partial load is refused."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network it names: {str(error).splitlines()[-1].strip()}") from None
