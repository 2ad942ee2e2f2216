"""Class embeddings from an encoder's text tower, by open_clip or transformers"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unshaken.base.checksum import checksum
from unshaken.base.types import Float
from unshaken.evaluation.class_embeddings import SCALE, ClassEmbeddings
from unshaken.interop.encoder_words import WEIGHTS, locate
from unshaken.layouts.foreign import read
from unshaken.nets.timm_nets import timm_package

TEMPLATES = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a close-up photo of a {}.",
    "a drawing of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "itap of a {}.",
)
"""Sentences that suit most sets of images; {} is the name of a class."""
Embed = Callable[[Sequence[str]], Tensor]
"""From sentences to a vector each."""


def text_embeddings(word: str, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> ClassEmbeddings:
    """Return an embedding for each class: e_k = normalise(mean_j normalise(ψ(template_j with the name of class k))).

    word  a folder that open_clip or transformers wrote, or open_clip/OWNER/NAME or hf/OWNER/NAME
    """
    if wrong := next((each for each in templates if "{}" not in each), None):
        raise ValueError(f"a template has {{}} in place of the class, and {wrong[:60]!r} has none")
    if not names:
        raise ValueError("there are no names of classes")
    found = locate(word)
    library = next((name for name, files in WEIGHTS.items() if found.file.name in files), None)
    if library is None:
        raise ValueError(f"{word} is no folder of transformers or open_clip: {found.file.name} holds weights alone")
    embed, scale, bias = (_open_clip if library == "open_clip" else _transformers)(found.file.parent)
    with torch.no_grad():
        weight = torch.stack([_of_class(embed, name, templates) for name in names])
    about = {"templates": list(templates), "embedding": "projected", "text_tower": checksum([found.file.read_bytes()])}
    sha256 = read(found.file).sha256
    bias = None if bias is None else torch.full((len(names),), bias)
    return ClassEmbeddings(weight, tuple(names), scale, bias, sha256, about)


def _of_class(embed: Embed, name: str, templates: Sequence[str]) -> Float[Tensor, "D"]:
    sentences = [template.replace("{}", name) for template in templates]
    return normalize(normalize(embed(sentences), dim=-1).mean(0), dim=0)


def _needs(package: str) -> None:
    timm_package()  # makes torchvision's import possible beside a torch without CUDA
    if find_spec(package) is None:
        named = {"open_clip": "open_clip_torch"}.get(package, package)
        raise ValueError(f"text embeddings of this folder need {package}: pip install {named}")


def _open_clip(folder: Path) -> tuple[Embed, float, float | None]:
    _needs("open_clip")
    import open_clip  # pyright: ignore[reportMissingImports]

    model: Any = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    bias = getattr(model, "logit_bias", None)
    scale = float(model.logit_scale.detach().exp())
    return lambda sentences: model.encode_text(tokenizer(list(sentences))), scale, None if bias is None else float(bias)


def _transformers(folder: Path) -> tuple[Embed, float, float | None]:
    _needs("transformers")
    from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    if not hasattr(model, "get_text_features"):
        raise ValueError(f"{folder} holds a {type(model).__name__}, which has no text tower")

    def embed(sentences: Sequence[str]) -> Tensor:
        found = model.get_text_features(**tokenizer(list(sentences), padding="max_length", return_tensors="pt"))
        return found if isinstance(found, Tensor) else found.pooler_output

    scale = getattr(model, "logit_scale", None)
    bias = getattr(model, "logit_bias", None)
    return embed, SCALE if scale is None else float(scale.detach().exp()), None if bias is None else float(bias)
