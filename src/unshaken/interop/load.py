"""An encoder or a classifier, from a run, a file, or a folder made for a hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import backbone_of, load
from unshaken.nets.dual_bn import merge_route, routes_of
from unshaken.nets.network import Encoder, Network

WITHIN = ("model.safetensors", "encoder.safetensors", "classifier.safetensors")
"""What a folder is opened by: a folder for a hub, a run of pre-training, a run of fine-tuning."""


def file_in(path: Path) -> Path:
    """The file that a folder is there for, or the file itself."""
    if not path.is_dir():
        return path
    found = [path / name for name in WITHIN if (path / name).exists()]
    if not found:
        raise ValueError(f"there is none of {', '.join(WITHIN)} in {path}: name a finished run or a file")
    return found[0]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """What a file holds. A classifier has one way in; an encoder has a way for each route."""

    net: Encoder | Network
    backbone: Backbone
    about: dict[str, Any]

    @property
    def kind(self) -> str:
        return "classifier" if isinstance(self.net, Network) else "encoder"

    @property
    def encoder(self) -> Encoder:
        return self.net.encoder if isinstance(self.net, Network) else self.net

    def alone(self, route: str | None) -> tuple[LoadedModel, str | None]:
        """With one route merged into a plain network, and which: the adversarial one if there is a choice."""
        routes = routes_of(self.net)
        if not routes and route is not None:
            raise ValueError(f"this {self.kind} has no routes, so there is none to choose: leave --route out")
        chosen = route or ("adv" if "adv" in routes else next(iter(routes), None))
        return LoadedModel(merge_route(self.net, chosen or ""), self.backbone, self.about), chosen


def load_model(path: Path) -> LoadedModel:
    """In eval mode. ValueError if it is no file of ours."""
    net, about = load(file_in(path))
    return LoadedModel(net.eval(), backbone_of(about), about)
