"""Export into the file that an encoder came from: same names, order and dtypes"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unshaken.base.json_files import write_bytes
from unshaken.base.tensor_file import seal, sealed
from unshaken.layouts.encoder_layouts import ENCODER_LAYOUTS
from unshaken.layouts.foreign import ForeignCheckpoint, file_format, read
from unshaken.nets.name_rules import names_within, placed
from unshaken.nets.network import Encoder
from unshaken.nets.torch_files import read_safetensors, real


def origin_of(about: Any, depth: int = 0) -> dict[str, Any] | None:
    """Return the record of the original's import in a header, from however many trainings ago; None if there is none.

    about  a file's metadata, in which the record of each training may hold that of the encoder that it began with
    """
    if not isinstance(about, dict) or depth > 16:
        return None
    if about.get("layout") in ENCODER_LAYOUTS and isinstance(about.get("reading"), dict) and "file" in about:
        return about
    found = (origin_of(each, depth + 1) for each in about.values())
    return next((each for each in found if each is not None), None)


def write_original(encoder: Encoder, about: dict[str, Any], original: Path, out: Path) -> list[str]:
    """Write the encoder's weights in place of the original's, in a file of the same form; return what is to be said.

    about     the metadata of the encoder's file
    original  the file that was imported

    A tensor whose weights did not change is copied bit for bit, and so is all that is not of the encoder. ValueError if
    the file is not the one that was imported.
    """
    foreign = read(original)
    origin = check_origin(about, foreign, original)
    tensors, changed, rounding = weights_of(encoder, origin, foreign)
    said = [f"{changed} of {len(tensors)} tensors differ from {foreign.name}, all others are copied bit for bit"]
    if rounding > 0:
        said.append(f"rounding to the original's dtype moved weights by up to {rounding:.1e}")
    key = origin["reading"].get("key", "")
    if file_format(original) == "safetensors":
        metadata = {name: text for name, text in read_safetensors(original)[1].items() if name != "sha"}
        write_bytes(out, *seal(save(tensors, sealed(metadata))))
        return said
    if others := [entry for entry in foreign.entries if not entry.startswith(key or " ")]:
        said.append(f"left out: {', '.join(others[:8])}")
    value: Any = tensors
    for part in reversed(key.split(".") if key else ()):
        value = {part: value}
    stream = io.BytesIO()
    torch.save(value, stream)
    write_bytes(out, stream.getvalue())
    return said


def check_origin(about: dict[str, Any], foreign: ForeignCheckpoint, original: Path) -> dict[str, Any]:
    """Return the record of the original's import. ValueError if there is none, or if it is of another file."""
    origin = origin_of(about)
    if origin is None:
        raise ValueError("the encoder was not imported from a file of CLIP, DINOv2, ViT or the like")
    if foreign.sha256 != origin["file"].get("sha256"):
        raise ValueError(
            f"{original} is not the file that was imported: its sha256 begins with {foreign.sha256[:12]}, and that of "
            f"{origin['file']['name']} with {str(origin['file'].get('sha256'))[:12]}"
        )
    return origin


def original_weights(encoder: Encoder, origin: dict[str, Any], foreign: ForeignCheckpoint) -> dict[str, Tensor]:
    """Return the weights of the original by our names, in float32: those that an encoder began with."""
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.backbone.state_dict().items()}
    container = next((each for each in foreign.containers if each.key == origin["reading"].get("key", "")), None)
    if container is None:
        raise ValueError(f"{foreign.name} has no tensors under {origin['reading'].get('key', '')!r}")
    names = names_within(container.tensors, origin["reading"].get("prefix", ""))
    rules, _ = placed(ENCODER_LAYOUTS[origin["layout"]].rules, names)
    found: dict[str, Tensor] = {}
    for rule in rules:
        if any(name in shapes for name in rule.ours):
            found |= rule.read({n: real(container.tensors[names[n]], n, foreign.name) for n in rule.theirs}, shapes)
    return found


def weights_of(
    encoder: Encoder, origin: dict[str, Any], foreign: ForeignCheckpoint
) -> tuple[dict[str, Tensor], int, float]:
    """Return all tensors of the file with the encoder's weights; how many changed; and the largest rounding."""
    prefix, key = origin["reading"].get("prefix", ""), origin["reading"].get("key", "")
    container = next((each for each in foreign.containers if each.key == key), None)
    if container is None:
        raise ValueError(f"{foreign.name} has no tensors under {key!r}")
    ours = {name: tensor.detach().cpu() for name, tensor in encoder.backbone.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
    names = names_within(container.tensors, prefix)
    found = {name: torch.as_tensor(tensor) for name, tensor in container.tensors.items()}
    rules, _ = placed(ENCODER_LAYOUTS[origin["layout"]].rules, names)
    changed, rounding = 0, 0.0
    for rule in rules:
        if not any(name in ours for name in rule.ours):
            continue
        before = {name: found[names[name]] for name in rule.theirs}
        as_read = rule.read({name: real(tensor, name, foreign.name) for name, tensor in before.items()}, shapes)
        if all(torch.equal(tensor, ours[name]) for name, tensor in as_read.items()):
            continue
        after = rule.written(ours, before)
        again = rule.read({name: tensor.float() for name, tensor in after.items()}, shapes)
        rounding = max(rounding, *(float((again[name] - ours[name]).abs().max()) for name in again))
        found |= {names[name]: tensor.contiguous() for name, tensor in after.items()}
        changed += len(after)
    return found, changed, rounding


def note(said: list[str]) -> None:
    for line in said:
        print(f"note: {line}", file=sys.stderr)
