"""A robust encoder in the form of the file that it came from: the same names, order, shapes and dtypes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unshaken.base.json_files import write_bytes
from unshaken.interop.import_checkpoint import find_weights
from unshaken.interop.import_options import ImportOptions
from unshaken.layouts.foreign import file_format, read
from unshaken.nets.dual_bn import single_route
from unshaken.nets.network import Encoder
from unshaken.nets.torch_files import read_safetensors, real


def same_keys(original: Path, encoder: Encoder, options: ImportOptions, sha256: str = "") -> dict[str, Tensor]:
    """Return the weights of the file that an encoder was imported from, with those of the encoder in place of its own.

    options  those of the import
    sha256   the digest of the file when it was imported; ValueError if it is another one by now

    All other tensors, such as a classifier's, are those of the file.
    """
    return _with_new_weights(original, encoder, options, sha256)[0]


def _with_new_weights(
    original: Path, encoder: Encoder, options: ImportOptions, sha256: str
) -> tuple[dict[str, Tensor], str]:
    """Return the weights of the file, and the entry in which they are."""
    foreign = read(original)
    if sha256 not in ("", foreign.sha256):
        raise ValueError(f"{original} is not the file that the encoder came from: its SHA-256 is another one")
    reading, _ = find_weights(foreign, options)
    ours = {id(tensor): name for name, tensor in reading.weights.items()}
    container = next(each for each in foreign.containers if each.key == reading.container.key)
    plain = single_route(encoder, "shared").backbone.state_dict()
    found = {}
    for name, tensor in container.tensors.items():
        before = real(tensor, name, original.name) if not isinstance(tensor, Tensor) else tensor
        new = plain.get(ours.get(id(tensor), ""))
        found[name] = before if new is None else new.detach().cpu().to(before.dtype).reshape(before.shape)
    return found, container.key


def write_same_keys(original: Path, out: Path, encoder: Encoder, options: ImportOptions, sha256: str = "") -> None:
    """Write what `same_keys` returns in the form of the file: safetensors with its header, or as torch.save writes it.

    Entries beside the weights, such as an optimizer's state, are left out.
    """
    tensors, key = _with_new_weights(original, encoder, options, sha256)
    if file_format(original) == "safetensors":
        header: dict[str, Any] = read_safetensors(original)[1]
        own = {name: text for name, text in header.items() if isinstance(text, str)}
        write_bytes(out, save({name: tensor.contiguous() for name, tensor in tensors.items()}, own or None))
        return
    value: Any = {name: tensor.contiguous() for name, tensor in tensors.items()}
    for part in reversed(key.split(".") if key else ()):
        value = {part: value}
    stored = io.BytesIO()
    torch.save(value, stored)
    write_bytes(out, stored.getvalue())
