"""Zero-shot classification by an encoder and class embeddings, for evaluation under attack like any classifier."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from unshaken.base.types import Float
from unshaken.evaluation.class_embeddings import ClassEmbeddings, read_class_embeddings
from unshaken.evaluation.classifier import Classifier
from unshaken.interop.load import file_in
from unshaken.layouts.original_file import origin_of
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_encoder
from unshaken.nets.network import Encoder

STORED = "classes.safetensors"
"""The copy of the class embeddings beside the results, with which `unshaken verify` attacks again."""


class ZeroShot(nn.Module):
    """From images in [0, 1] to logits s · cos(f(x), t_k) + b_k, where t_k is the embedding of class k."""

    weight: Tensor
    bias: Tensor

    def __init__(self, encoder: Encoder, classes: ClassEmbeddings) -> None:
        super().__init__()
        self.encoder = encoder
        bias = torch.zeros(len(classes.weight)) if classes.bias is None else classes.bias
        self.register_buffer("weight", classes.scale * classes.weight)
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        return normalize(self.encoder(x), dim=-1) @ self.weight.T + self.bias


def zero_shot_classifier(
    path: Path, file: Path, *, scale: float | None = None, any_encoder: bool = False
) -> tuple[Classifier, Backbone]:
    """Return the zero-shot classifier of an encoder's file or run, and the encoder's Backbone.

    file         class embeddings
    scale        the factor of the cosine; None: that of the file, else 100. It changes no answer, but attacks on
                 cross-entropy
    any_encoder  accept class embeddings that were made for another encoder
    """
    encoder, backbone, about = load_encoder(file_in(path))
    classes = read_class_embeddings(file, encoder.features)
    check_encoder(classes, about, file, any_encoder)
    classes = replace(classes, scale=scale or classes.scale)
    where = path if path.is_dir() else path.with_suffix("")
    stem = file.parent.name.removeprefix("zero-shot-") if file.name == STORED else file.stem
    folder = where / f"zero-shot-{stem}"
    if file != folder / STORED:
        classes.write(folder / STORED)
    name = about.get("pretrain", {}).get("recipe", {}).get("name", "encoder")
    found = Classifier.of_module(ZeroShot(encoder, classes), f"{name} zero-shot", folder)
    recipe = found.metadata["finetune"]["recipe"]
    recipe["zero_shot"] = {"scale": classes.scale, "classes": file.name} | classes.about
    words = [(each,) for each in classes.names]
    return replace(found, words=words, count=len(classes.weight)), backbone


def check_encoder(classes: ClassEmbeddings, about: dict, file: Path, any_encoder: bool) -> None:
    """Raise a ValueError if class embeddings are of another encoder's space; say so if it is not known."""
    origin = origin_of(about)
    ours = str((origin or about.get("pretrain", {})).get("file", {}).get("sha256", ""))
    if any_encoder or (ours and classes.encoder == ours):
        return
    if ours and classes.encoder:
        raise ValueError(
            f"{file} was made for an encoder whose file has the sha256 {classes.encoder[:12]}, and this encoder was "
            f"imported from {ours[:12]}: their spaces are unrelated (--any-encoder accepts it)"
        )
    print(f"note: {file} does not say for which encoder it was made: that of another one gives chance", file=sys.stderr)
