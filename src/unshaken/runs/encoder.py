"""A pre-trained encoder: read from a run or a file, its weights copied, features clustered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.serialize import short_hash
from unshaken.base.types import Int
from unshaken.data.images import Images
from unshaken.methods.pseudo_labels import clusters, features
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import digest, load_encoder, read_tensors, readable_header, write_tensors
from unshaken.nets.dual_bn import merge_route, routes_of, single_route
from unshaken.nets.network import Encoder
from unshaken.train.training_images import TrainingImages

CHUNK = 500
"""Images in a forward pass of a teacher."""


def encoder_file(path: Path) -> Path:
    """Return the encoder's file: in a run, in a folder made for a hub, or the file itself."""
    hub = path / "model.safetensors"
    file = path if not path.is_dir() else hub if hub.exists() else path / "encoder.safetensors"
    if not file.exists():
        if (path.parent / "encoder.safetensors").exists():
            hint = f"it is a fine-tuning run; its encoder is in {path.parent}"
        elif (path / "recipe.json").exists():
            hint = "its pre-training has not finished"
        else:
            hint = "name a pre-training run or an encoder file"
        raise ValueError(f"there is no encoder in {path}: {hint}")
    return file


@dataclass(frozen=True)
class PretrainedEncoder:
    """A trained encoder with its backbone, its metadata and the images that it was trained on."""

    encoder: Encoder
    backbone: Backbone
    metadata: dict[str, Any]
    seen: TrainingImages = TrainingImages()

    @classmethod
    def read(cls, file: Path) -> PretrainedEncoder:
        """Read an encoder file. ValueError if it is not one of this package, or lacks its origin."""
        encoder = cls(*load_encoder(file, training=True), TrainingImages.beside(file))
        with readable_header(file):
            _ = encoder.metadata["pretrain"]["recipe"]["name"], encoder.metadata["pretrain"]["recipe"]["data"]["name"]
        return encoder

    @property
    def identity(self) -> dict[str, Any]:
        """The identity that a resumed run checks, with the network's fields: padding is not in the weights."""
        name = self.metadata["pretrain"]["recipe"]["name"]
        return {"name": name, "network": short_hash(self.backbone), "weights": digest(self.encoder)}

    def clean_route(self) -> Encoder:
        """Return a copy with only the route of clean images."""
        return single_route(self.encoder, "clean")

    def adversarial_route(self) -> Encoder:
        """Return a copy with only the route of adversarial images."""
        return single_route(self.encoder, "adv")

    def load_into(self, encoder: Encoder) -> None:
        """Copy the weights into a network of the same kind; a route that this encoder lacks takes the clean route's."""
        routes = {route: merge_route(self.encoder, route).state_dict() for route in routes_of(self.encoder)}
        plain = self.clean_route().state_dict()
        copied = {}
        for name in encoder.state_dict():
            route = re.search(r"\.routes\.([^.]+)(?=\.)", name)
            weights = routes.get(route[1], plain) if route else plain
            copied[name] = weights[name.replace(route[0], "") if route else name]
        encoder.load_state_dict(copied)

    def pseudo_labels(self, file: Path, images: Images, counts: tuple[int, ...], key: Key) -> Int[Tensor, "N L"]:
        """Cluster the features of images into pseudo-labels. They are saved in `file`, which a resumed run reads."""
        if not file.exists():
            encoder = self.clean_route().to(images.device)
            slices = [slice(at, at + CHUNK) for at in range(0, len(images), CHUNK)]
            f = torch.cat([features(encoder, images.floats(chunk)) for chunk in slices])
            write_tensors(file, {"label": clusters(f, counts, key)}, {"kind": "pseudo-labels"})
        return read_tensors(file)[0]["label"]
