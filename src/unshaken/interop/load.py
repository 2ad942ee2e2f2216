"""Loading of an encoder or a classifier from a run, a file, or a folder for a hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import backbone_of, load
from unshaken.nets.dual_bn import merge_route, routes_of
from unshaken.nets.network import Encoder, Network

WITHIN = ("model.safetensors", "encoder.safetensors", "classifier.safetensors")
"""The file that is loaded from a folder: a folder for a hub, a pre-training run, a fine-tuning run."""


def file_in(path: Path) -> Path:
    """Return the model file in a folder, or the path itself if it is no folder."""
    if not path.is_dir():
        return path
    found = [path / name for name in WITHIN if (path / name).exists()]
    if not found:
        raise ValueError(f"{path} has none of {', '.join(WITHIN)}: name a finished run or a file")
    return found[0]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """An encoder or a classifier with its metadata. An encoder may have several routes."""

    net: Encoder | Network
    backbone: Backbone
    metadata: dict[str, Any]

    @property
    def kind(self) -> str:
        return "classifier" if isinstance(self.net, Network) else "encoder"

    @property
    def encoder(self) -> Encoder:
        return self.net.encoder if isinstance(self.net, Network) else self.net

    def with_one_route(self, route: str | None) -> tuple[LoadedModel, str | None]:
        """Return the model with the batch norms of one route only, and the name of this route; "adv" by default."""
        routes = routes_of(self.net)
        if not routes and route is not None:
            raise ValueError(f"this {self.kind} has no routes: leave --route out")
        name = route or ("adv" if "adv" in routes else next(iter(routes), None))
        return LoadedModel(merge_route(self.net, name or ""), self.backbone, self.metadata), name


def load_model(path: Path) -> LoadedModel:
    """Load a model in eval mode. ValueError if the file was not written by unshaken."""
    net, metadata = load(file_in(path))
    return LoadedModel(net.eval(), backbone_of(metadata), metadata)
