"""Class embeddings for zero-shot classification: a vector for each class"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor

from unshaken.base.json_files import parse_json, write_bytes
from unshaken.base.json_shapes import Items, Number
from unshaken.base.ranges import Positive, ranged
from unshaken.base.tensor_file import seal, sealed
from unshaken.base.types import Float
from unshaken.nets.torch_files import read_safetensors, read_torch, real

SCALE = 100.0
"""Temperature of CLIP: its logits are 100 times the cosine."""
NEAR = 1e-3
"""Largest difference of a row's length from 1 that is not mentioned."""


@dataclass(frozen=True, eq=False)
@ranged
class ClassEmbeddings:
    """A unit vector for each class. The logits of an image are scale · cos(embedding, vector) + bias.

    encoder  sha256 of the file whose image tower the vectors are for; empty: not known
    about    how they were made: templates, the text tower, and the like
    """

    weight: Float[Tensor, "C D"]
    names: tuple[str, ...] = ()
    scale: Positive = SCALE
    bias: Float[Tensor, "C"] | None = None
    encoder: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"weight": self.weight.contiguous()} | ({} if self.bias is None else {"bias": self.bias.contiguous()})
        words = {"names": list(self.names), "scale": self.scale, "encoder": self.encoder} | self.about
        metadata = {name: json.dumps(value) for name, value in words.items()} | {"format": "pt"}
        write_bytes(path, *seal(save(tensors, sealed(metadata))))


def read_class_embeddings(path: Path, width: int) -> ClassEmbeddings:
    """Read class embeddings: safetensors with names, or a matrix in .npy, .npz or .pt with names in a file NAME.txt.

    width  the number of an image's features, which tells the rows of a bare matrix from its columns
    ValueError, in one line, if they do not fit the encoder.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path} of class embeddings; `unshaken text-embeddings` makes one")
    if path.suffix == ".safetensors":
        found = _read_safetensors(path)
    else:
        names = path.with_suffix(".txt")
        lines = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
        matrix = real(_matrix(path), "the matrix", path.name)
        found = ClassEmbeddings(_upright(matrix, width, path), tuple(line.strip() for line in lines if line.strip()))
    weight = found.weight
    if weight.ndim != 2 or weight.shape[1] != width:
        raise ValueError(
            f"{path} has vectors of shape {tuple(weight.shape)}, and the encoder gives {width} features: they are for "
            "another encoder, or for another --pool"
        )
    if found.names and len(found.names) != len(weight):
        raise ValueError(f"{path} has {len(weight)} vectors and {len(found.names)} names: it needs one name for each")
    if found.bias is not None and found.bias.shape not in ((), (len(weight),)):
        raise ValueError(f"{path} has {len(weight)} vectors and a bias of shape {tuple(found.bias.shape)}")
    length = weight.norm(dim=1, keepdim=True)
    if float(length.min()) <= 0:
        raise ValueError(f"{path} has a vector of zeros: a class needs a direction")
    if float((length - 1).abs().max()) > NEAR:
        lengths = f"lengths from {length.min():.3g} to {length.max():.3g}"
        print(f"note: the vectors in {path} have {lengths}: they are scaled to 1", file=sys.stderr)
        weight = weight / length  # and only then, so that a copy of a copy has the same bits
    bias = None if found.bias is None else found.bias.expand(len(weight)).clone()
    return ClassEmbeddings(weight, found.names, found.scale, bias, found.encoder, found.about)


def _read_safetensors(path: Path) -> ClassEmbeddings:
    tensors, header = read_safetensors(path)
    if "weight" not in tensors:
        raise ValueError(f"{path} has no tensor named weight, so it holds no class embeddings")
    parsed = {}
    for name, shape in (("names", Items(str)), ("scale", Number(0)), ("encoder", str)):
        if name in header:
            parsed[name] = parse_json(header[name], f"{name} in {path}", shape)
    about = {name: header[name][:10_000] for name in ("templates", "text_tower", "embedding") if name in header}
    bias = real(tensors["bias"], "bias", path.name).float() if "bias" in tensors else None
    names = tuple(parsed.get("names", ()))
    weight = real(tensors["weight"], "weight", path.name).float()
    return ClassEmbeddings(weight, names, parsed.get("scale", SCALE), bias, parsed.get("encoder", ""), about)


def _matrix(path: Path) -> Any:
    """Return the one matrix of a file of NumPy or PyTorch."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            found: dict[Any, Any] = {name: archive[name] for name in archive.files}
    elif path.suffix in (".pt", ".pth"):
        value = read_torch(path).value
        found = value if isinstance(value, dict) else {"": value}
    else:
        raise ValueError(f"class embeddings are a file .safetensors, .npy, .npz or .pt, not {path.name}")
    matrices = [each for each in found.values() if getattr(each, "ndim", 0) == 2]
    if len(matrices) != 1:
        raise ValueError(f"{path} has {len(matrices)} matrices, and class embeddings are one")
    return matrices[0]


def _upright(matrix: Tensor, width: int, path: Path) -> Float[Tensor, "C D"]:
    """Return the matrix with a row for each class: the side that is as long as an image's features are the columns."""
    if matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] == width:
        raise ValueError(
            f"{path} is a square matrix, so that it does not say if its rows or its columns are the classes: save it "
            "as safetensors, with a tensor `weight` of one row for each class"
        )
    return matrix.float().T if matrix.ndim == 2 and matrix.shape[0] == width else matrix.float()
