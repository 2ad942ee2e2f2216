"""The word that names an encoder: a file, a folder or hf/OWNER/NAME; its configuration"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_foreign_json
from unshaken.base.json_shapes import Items, Number, Whole
from unshaken.layouts.encoder_facts import ACTIVATIONS, Facts
from unshaken.layouts.published import Normalisation
from unshaken.nets.published_weights import hub_file

WEIGHTS = {
    "hf": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}
"""Files of weights by the library that wrote them."""
CONFIGS = {"hf": ("config.json", "preprocessor_config.json"), "open_clip": ("open_clip_config.json",)}
CONFIG = {
    "model_type?": str,
    "hidden_act?": str,
    "layer_norm_eps?": Number(0),
    "num_attention_heads?": Whole(1, 1024),
    "vision_config?": {},
    "pretrained_cfg?": {"mean?": Items(Number()), "std?": Items(Number()), "input_size?": Items(Whole(1, 4096), 3, 3)},
}
PREPROCESSING = {
    "image_mean?": Items(Number()),
    "image_std?": Items(Number()),
    "resample?": Whole(0, 5),
    "crop_size?": {},
    "size?": {},
}
OPEN_CLIP = {
    "model_cfg": {
        "quick_gelu?": bool,
        "vision_cfg": {"width?": Whole(1, 1 << 16), "head_width?": Whole(1, 1 << 16), "timm_model_name?": str},
    },
    "preprocess_cfg?": {"mean?": Items(Number()), "std?": Items(Number()), "interpolation?": str},
}
DEFAULTS = {
    "clip_vision_model": ("quick_gelu", 1e-5, 12),
    "clip": ("quick_gelu", 1e-5, 12),
    "siglip_vision_model": ("gelu_pytorch_tanh", 1e-6, 12),
    "siglip": ("gelu_pytorch_tanh", 1e-6, 12),
    "vit": ("gelu", 1e-12, 12),
    "vit_mae": ("gelu", 1e-12, 12),
    "dinov2": ("gelu", 1e-6, 12),
    "dinov3_vit": ("gelu", 1e-5, 6),
    "dinov2_with_registers": ("gelu", 1e-6, 12),
}
"""Activation, eps and heads that transformers takes where a configuration leaves them out, by model_type."""
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


@dataclass(frozen=True)
class Located:
    """The file of an encoder, what the configuration beside it says, and the name under which it was asked for."""

    file: Path
    facts: Facts
    name: str


def locate(word: str) -> Located:
    """Return the file that a word names. ValueError, in one line, if there is none."""
    path, (library, _, repository) = Path(word), word.partition("/")
    if path.is_dir():
        return _in_folder(path, word)
    if path.exists() or library not in WEIGHTS:
        return Located(path, _beside(path), word)
    if repository.count("/") != 1:
        raise ValueError(f"{library}/OWNER/NAME names a repository of the Hugging Face Hub, not {word!r}")
    file = hub_file(repository, word, WEIGHTS[library])
    for config in CONFIGS[library]:
        if not (file.parent / config).exists():  # the cache has one folder for all files of a revision
            _fetch(repository, word, config)
    return Located(file, _beside(file), word)


def _fetch(repository: str, word: str, config: str) -> None:
    try:
        hub_file(repository, word, (config,))
    except ValueError:
        if config != "preprocessor_config.json":
            raise


def _in_folder(folder: Path, word: str) -> Located:
    names = [*WEIGHTS["hf"], *WEIGHTS["open_clip"]]
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise ValueError(f"{folder} has none of {', '.join(names)}: name a file, or a folder that a library wrote")
    return Located(found[0], _beside(found[0]), word)


def _beside(file: Path) -> Facts:
    """Return what the configurations in a file's folder say, if they are of this file."""
    facts = Facts()
    if file.name in WEIGHTS["open_clip"] and (file.parent / "open_clip_config.json").exists():
        return of_open_clip(read_foreign_json(file.parent / "open_clip_config.json", OPEN_CLIP))
    if file.name in WEIGHTS["hf"]:
        for name, shape, read in (
            ("preprocessor_config.json", PREPROCESSING, of_preprocessing),
            ("config.json", CONFIG, of_transformers),
        ):
            if (file.parent / name).exists():
                facts = facts.over(read(read_foreign_json(file.parent / name, shape)))
    return facts


def of_transformers(config: dict[str, Any]) -> Facts:
    """Read config.json of transformers or of timm."""
    own = config.get("pretrained_cfg") or {}
    vision = config.get("vision_config") or config
    kind = vision.get("model_type") or config.get("model_type")
    activation, eps, heads = DEFAULTS.get(str(kind), (None, None, None))
    word = vision.get("hidden_act") or activation
    if word is not None and word not in ACTIVATIONS:
        raise ValueError(f"config.json names the activation {str(word)[:40]!r}; {', '.join(ACTIVATIONS)} are known")
    return Facts(
        heads=vision.get("num_attention_heads") or heads,
        activation=ACTIVATIONS[word] if word else None,
        eps=vision.get("layer_norm_eps") or eps,
        side=(own.get("input_size") or [None])[-1],
        normalisation=_pair(own.get("mean"), own.get("std")),
        kind=kind,
    )


def of_preprocessing(config: dict[str, Any]) -> Facts:
    """Read preprocessor_config.json of transformers."""
    size = config.get("crop_size") or config.get("size") or {}
    side = size.get("height") if size.get("height") == size.get("width") else size.get("shortest_edge")
    return Facts(
        side=side if type(side) is int and side > 0 else None,
        normalisation=_pair(config.get("image_mean"), config.get("image_std")),
        interpolation=RESAMPLING.get(config.get("resample", -1)),
    )


def of_open_clip(config: dict[str, Any]) -> Facts:
    """Read open_clip_config.json."""
    model, how = config["model_cfg"], config.get("preprocess_cfg") or {}
    vision = model["vision_cfg"]
    trunk = "timm_model_name" in vision  # then the activation is the trunk's
    return Facts(
        heads=None if trunk else vision.get("width", 768) // vision.get("head_width", 64),
        activation=None if trunk else "quick_gelu" if model.get("quick_gelu") else "gelu",
        normalisation=_pair(how.get("mean"), how.get("std")),
        interpolation=how.get("interpolation"),
    )


def _pair(mean: Any, std: Any) -> Normalisation | None:
    return (tuple(mean), tuple(std)) if mean and std else None
