"""A robust encoder in the form of the file that it came from: the same names, order, shapes and dtypes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unshaken.base.json_files import write_bytes
from unshaken.interop.foreign import file_format, read
from unshaken.interop.import_checkpoint import ImportOptions, find_weights
from unshaken.nets.dual_bn import single_route
from unshaken.nets.network import Encoder
from unshaken.nets.torch_files import read_safetensors, real


def same_keys(original: Path, encoder: Encoder, options: ImportOptions, sha256: str = "") -> dict[str, Tensor]:
    """Return the weights of the file that an encoder was imported from, with those of the encoder in place of its own.

    options  those of the import
    sha256   the digest of the file when it was imported; ValueError if it is another one by now

    All other tensors, such as a classifier's, are those of the file. A file whose weights are in an entry, such as
    state_dict, gives the dictionary within this entry.
    """
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
    return found


def write_like(original: Path, out: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors in the format of a file: safetensors, with the same header, or as torch.save writes them."""
    if file_format(original) == "safetensors":
        header: dict[str, Any] = read_safetensors(original)[1]
        own = {name: text for name, text in header.items() if isinstance(text, str)}
        write_bytes(out, save({name: tensor.contiguous() for name, tensor in tensors.items()}, own or None))
    else:
        stored = io.BytesIO()
        torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, stored)
        write_bytes(out, stored.getvalue())
    return out
