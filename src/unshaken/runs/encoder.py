"""A pre-trained encoder: read from a run or a file, its weights copied, its features clustered."""

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
"""Images at a time through a teacher."""


def encoder_file(path: Path) -> Path:
    """The encoder of a run or of a folder made for a hub, or the file itself."""
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
    """A trained encoder, its network, and what is noted about it."""

    encoder: Encoder
    backbone: Backbone
    about: dict[str, Any]
    seen: TrainingImages = TrainingImages()

    @classmethod
    def read(cls, file: Path) -> PretrainedEncoder:
        """ValueError if it is no encoder of ours, or does not say where it comes from."""
        given = cls(*load_encoder(file, training=True), TrainingImages.beside(file))
        with readable_header(file):
            _ = given.metadata["pretrain"]["recipe"]["name"], given.metadata["pretrain"]["recipe"]["data"]["name"]
        return given

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that begins with it has to meet again: padding, say, is in no weight."""
        name = self.metadata["pretrain"]["recipe"]["name"]
        return {"name": name, "network": short_hash(self.backbone), "weights": digest(self.encoder)}

    def clean_route(self) -> Encoder:
        """A copy with the route of clean images alone."""
        return single_route(self.encoder, "clean")

    def adversarial_route(self) -> Encoder:
        """A copy with the route of adversarial images alone."""
        return single_route(self.encoder, "adv")

    def load_into(self, encoder: Encoder) -> None:
        """Copy the weights into a network of the same kind. A route takes those of the same name, else the clean route's."""
        known = {route: merge_route(self.encoder, route).state_dict() for route in routes_of(self.encoder)}
        plain = self.clean_route().state_dict()
        lent = {}
        for name in encoder.state_dict():
            route = re.search(r"\.routes\.([^.]+)(?=\.)", name)
            mine = known.get(route[1], plain) if route else plain
            lent[name] = mine[name.replace(route[0], "") if route else name]
        encoder.load_state_dict(lent)

    def pseudo_labels(self, file: Path, images: Images, counts: tuple[int, ...], key: Key) -> Int[Tensor, "N L"]:
        """Cluster the features of images into pseudo-labels. They are kept in `file`, so that a resumed run has the same."""
        if not file.exists():
            encoder = self.clean_route().to(images.device)
            slices = [slice(at, at + CHUNK) for at in range(0, len(images), CHUNK)]
            f = torch.cat([features(encoder, images.floats(part)) for part in slices])
            write_tensors(file, {"label": clusters(f, counts, key)}, {"kind": "pseudo-labels"})
        return read_tensors(file)[0]["label"]
