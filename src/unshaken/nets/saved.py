"""An encoder or a classifier as one safetensors file that says how to build it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unshaken.base.canon import plain
from unshaken.base.files import write_bytes
from unshaken.nets.backbone import Backbone
from unshaken.nets.bounds import check_size
from unshaken.nets.embed import Encoder, Network
from unshaken.nets.heads import zero_classifier
from unshaken.nets.routed import routed, routes_of

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


def load_encoder(path: Path) -> tuple[Encoder, Backbone, dict[str, Any]]:
    """The encoder with its routes, the recipe of its network, and what was noted about it."""
    tensors, about = read_tensors(path)
    _expect(about, "encoder", path)
    with legible(path):
        backbone, routes = backbone_of(about), tuple(about["routes"])
    _within(path, backbone, routes, 0, tensors)
    encoder = backbone.build()
    if routes:
        routed(encoder, routes)
    _fill(encoder, tensors, path)
    return encoder, backbone, about


def save_classifier(
    path: Path, net: Network, backbone: Backbone, names: tuple[str, ...], about: dict[str, Any]
) -> None:
    """A plain network (no routes) whose logits are in the order of `names`."""
    kind = {"kind": "classifier", "backbone": plain(backbone), "names": list(names)}
    write_tensors(path, net.state_dict(), about | kind)


def load_classifier(path: Path) -> tuple[Network, dict[str, Any]]:
    """The classifier, and what was noted about it; "names" are its classes."""
    tensors, about = read_tensors(path)
    _expect(about, "classifier", path)
    with legible(path):
        backbone, classes = backbone_of(about), len(about["names"])
    _within(path, backbone, (), classes, tensors)
    encoder = backbone.build()
    net = Network(encoder, zero_classifier(encoder.features, classes))
    _fill(net, tensors, path)
    return net, about


def backbone_of(about: dict[str, Any]) -> Backbone:
    fields = {name: value for name, value in about["backbone"].items() if name != "type"}
    return Backbone(**fields | {"mean": tuple(fields["mean"]), "std": tuple(fields["std"])})


def digest(net: nn.Module) -> str:
    """32 hexadecimal digits that change with any bit of any parameter or buffer."""
    total = blake2b(digest_size=16)
    for name, tensor in net.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()


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


def _within(path: Path, backbone: Backbone, routes: tuple[str, ...], classes: int, tensors: dict[str, Tensor]) -> None:
    """What the header asks for is bounded by what the file holds."""
    try:
        check_size(backbone, routes, classes, tensors)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the network it names: {error}") from None


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Strictly: a partial load is refused."""
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network it names: {str(error).splitlines()[-1].strip()}") from None
