"""What a recipe begins with: an encoder named by a recipe, a run or a file, and pseudo-labels from its features."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unshaken.base.rng import Key
from unshaken.base.serialize import short_hash
from unshaken.base.types import Int
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.methods.pseudo_labels import clusters, features
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import digest, load_encoder, read_tensors, readable_header, write_tensors
from unshaken.nets.dual_bn import merge_route, routes_of, single_route
from unshaken.nets.network import Encoder
from unshaken.train.training_images import TrainingImages

if TYPE_CHECKING:
    from unshaken.recipes.lp_aff import LPAFF
    from unshaken.recipes.pretrain import Pretrain

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


def resolve_encoder(
    name: str,
    like: Pretrain | LPAFF,
    root: Path,
    runtime: Runtime,
    save_every: float,
    quiet: bool,
    network: bool = False,
) -> Path:
    """The encoder file that `name` stands for: of a run or a file that exists, else of a recipe that is run first.

    The recipe is given the images and the seed of `like`, and with `network` its network too.
    """
    if Path(name).exists():
        return encoder_file(Path(name))
    # a recipe may begin with any other, so the table of recipes and its entries know each other
    from unshaken.recipes.catalog import RECIPES, recipe

    if name.partition("/")[0] not in RECIPES:
        raise ValueError(f"{name!r} is neither a run, nor an encoder file, nor a recipe such as simclr/cifar10")
    first = replace(recipe(name), data=like.data, split=like.split, seed=like.seed)
    if network and hasattr(first, "backbone"):
        first = replace(first, backbone=like.backbone)  # pyright: ignore[reportAttributeAccessIssue]
    if not quiet:
        epochs = getattr(first, "epochs", None)
        long = "" if epochs is None else f", {epochs:,} epoch{'s' * (epochs > 1)}"
        print(
            f"{like.name} begins with {name}{long}: it is looked for under {root}, and trained there "
            "first if it has not come to its end; an encoder that there is can be named in its place",
            file=sys.stderr,
        )
    return first.run(root, runtime, save_every, quiet) / "encoder.safetensors"


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
            _ = given.about["pretrain"]["recipe"]["name"], given.about["pretrain"]["recipe"]["data"]["name"]
        return given

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that begins with it has to meet again: padding, say, is in no weight."""
        name = self.about["pretrain"]["recipe"]["name"]
        return {"name": name, "network": short_hash(self.backbone), "weights": digest(self.encoder)}

    def plain(self) -> Encoder:
        """A copy with the route of clean images alone."""
        return single_route(self.encoder, "clean")

    def robust(self) -> Encoder:
        """A copy with the route of adversarial images alone."""
        return single_route(self.encoder, "adv")

    def lend(self, encoder: Encoder) -> None:
        """Its weights to a network of the same kind. A route takes those of its namesake, or else the clean one's."""
        known = {route: merge_route(self.encoder, route).state_dict() for route in routes_of(self.encoder)}
        plain = self.plain().state_dict()
        lent = {}
        for name in encoder.state_dict():
            route = re.search(r"\.routes\.([^.]+)(?=\.)", name)
            mine = known.get(route[1], plain) if route else plain
            lent[name] = mine[name.replace(route[0], "") if route else name]
        encoder.load_state_dict(lent)

    def clusters(self, file: Path, images: Images, counts: tuple[int, ...], key: Key) -> Int[Tensor, "N L"]:
        """Pseudo-labels of images: made once and kept in `file`, so that a run that is resumed has the same."""
        if not file.exists():
            encoder = self.plain().to(images.device)
            slices = [slice(at, at + CHUNK) for at in range(0, len(images), CHUNK)]
            f = torch.cat([features(encoder, images.floats(part)) for part in slices])
            write_tensors(file, {"label": clusters(f, counts, key)}, {"kind": "pseudo-labels"})
        return read_tensors(file)[0]["label"]
