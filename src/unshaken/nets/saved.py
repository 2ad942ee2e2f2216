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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unshaken.base.canon import plain
from unshaken.base.files import write_bytes
from unshaken.nets.backbone import Backbone
from unshaken.nets.embed import Encoder, Network
from unshaken.nets.heads import zero_classifier
from unshaken.nets.routed import routed, routes_of, take

FORMAT = "unshaken/1"


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Atomically, with `about` in the header."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(stored, {"format": FORMAT, "about": json.dumps(about, allow_nan=False)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. A foreign or truncated file is a ValueError that names it."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); remove it, or take another copy") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by unshaken: its format is {header.get('format')!r}, not {FORMAT!r}")
    return tensors, json.loads(header["about"])


def save_encoder(path: Path, encoder: Encoder, backbone: Backbone, about: dict[str, Any]) -> None:
    """Every route is kept; `about` says where the encoder comes from."""
    kind = {"kind": "encoder", "backbone": plain(backbone), "routes": list(routes_of(encoder))}
    write_tensors(path, encoder.state_dict(), about | kind)


def load_encoder(path: Path, *, training: bool = False, route: str = "adv") -> tuple[Encoder, Backbone, dict[str, Any]]:
    """Return the encoder, the recipe of its network, and what was noted about it.

    The encoder is ready for use: it is in eval mode, and images take the robust route. All of its routes are kept.

    training  return it in train mode, as what is trained further needs it
    route     the route that images take; of an encoder without a route of this name, its first one
    """
    path = Path(path)
    tensors, about = read_tensors(path)
    _expect(about, "encoder", path)
    with legible(path):
        backbone, routes = backbone_of(about), tuple(about["routes"])
    encoder = backbone.build()
    if routes:
        routed(encoder, routes)
    _fill(encoder, tensors, path)
    if routes:
        take(encoder, route if route in routes else routes[0])
    return encoder.train(training), backbone, about


def save_classifier(
    path: Path, net: Network, backbone: Backbone, names: tuple[str, ...], about: dict[str, Any]
) -> None:
    """A plain network (no routes) whose logits are in the order of `names`."""
    kind = {"kind": "classifier", "backbone": plain(backbone), "names": list(names)}
    write_tensors(path, net.state_dict(), about | kind)


def load_classifier(path: Path) -> tuple[Network, dict[str, Any]]:
    """Return the classifier, in eval mode, and what was noted about it; "names" are its classes."""
    path = Path(path)
    tensors, about = read_tensors(path)
    _expect(about, "classifier", path)
    with legible(path):
        backbone, classes = backbone_of(about), len(about["names"])
    encoder = backbone.build()
    net = Network(encoder, zero_classifier(encoder.features, classes))
    _fill(net, tensors, path)
    return net.eval(), about


def backbone_of(about: dict[str, Any]) -> Backbone:
    fields = {name: value for name, value in about["backbone"].items() if name != "type"}
    return Backbone(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


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
def legible(path: Path) -> Iterator[None]:
    """What a header lacks, or has too much, as a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} has a header that this version cannot read ({reason}): is it newer?") from None


def _expect(about: dict[str, Any], kind: str, path: Path) -> None:
    if about.get("kind") != kind:
        raise ValueError(f"{path} is a file of kind {about.get('kind')!r}; needed is one of kind {kind!r}")


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Strictly: a partial load is refused."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network it names: {str(error).splitlines()[-1].strip()}") from None
