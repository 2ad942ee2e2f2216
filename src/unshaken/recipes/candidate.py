"""Who sits an exam: the classifier of a run, a network of timm's or torchvision's by name, or any module in Python."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from unshaken.base.files import read_json
from unshaken.data.images import Images
from unshaken.data.source import Source
from unshaken.exchange.importing import UNKNOWN
from unshaken.nets.embed import Network, frozen
from unshaken.nets.folded import folded
from unshaken.nets.saved import backbone_of, digest, load_classifier
from unshaken.nets.timm_nets import published_classifier
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.pretrain import fitting
from unshaken.recipes.settings import source_of
from unshaken.train.run import ENDED
from unshaken.train.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Candidate:
    """A classifier, and what is known of it.

    about    "pretrain" and "finetune" as in a classifier's file
    seconds  of pre-training and fine-tuning, None where nobody knows
    spent    what those of pre-training went into, if that is known: warm-up, selections, training
    folder   where its verdicts and results go; None for nowhere
    """

    net: Network
    weights: str
    about: dict[str, Any]
    seconds: dict[str, float | None]
    folder: Path | None = None
    spent: dict[str, float] | None = None

    @property
    def known(self) -> dict[str, Any]:
        """What a result says of it."""
        parts = {part: self.about[part] for part in ("pretrain", "finetune")}
        spent = {"spent": self.spent} if self.spent else {}
        return parts | {"weights": self.weights, "seconds": self.seconds} | spent

    @property
    def source(self) -> Source:
        """What it was fine-tuned on."""
        data = self.about["finetune"]["recipe"].get("data")
        if data is None:
            raise ValueError("a network that was not fine-tuned here has no images of its own: name them")
        return source_of(data, self.folder)

    @classmethod
    def of_run(cls, run: Path) -> Candidate:
        file = run / "classifier.safetensors"
        if not file.exists():
            hint = "its fine-tuning has not finished" if (run / "recipe.json").exists() else "name a fine-tuning run"
            raise ValueError(f"there is no classifier in {run}: {hint}")
        net, about = load_classifier(file)
        seconds = {"pretrain": _noted(run.parent, "seconds"), "finetune": _noted(run, "seconds")}
        return cls(net, digest(net), about, seconds, run, _noted(run.parent, "spent"))

    @classmethod
    def of_module(cls, module: nn.Module, name: str, folder: Path | None = None) -> Candidate:
        """Of a module that takes images in [0, 1] and gives logits: whatever it normalises by is inside it."""
        recipe = {"type": "Given", "name": name, "seed": UNKNOWN}
        about = {"pretrain": {"recipe": recipe}, "finetune": {"recipe": recipe | {"method": {"type": "given"}}}}
        net = module if isinstance(module, Network) else Network(module, nn.Identity())
        return cls(net, digest(module), about, {"pretrain": None, "finetune": None}, folder)

    @classmethod
    def of_name(cls, name: str) -> tuple[Candidate, int]:
        """timm/NAME or torchvision/NAME with published weights, and the side of its images."""
        module, side = published_classifier(name)
        return cls.of_module(module, name, Path("runs") / name.replace("/", "-")), side

    def images(self, data: Source | None = None, held_out: bool = False) -> Images:
        """A run's test images, or those of another set with the same classes; or what its fine-tuning kept aside."""
        if "names" not in self.about:  # no run, so all that is known is the number of its classes
            return (data or self.source).load("test")
        backbone, hold = backbone_of(self.about), self.about["finetune"]["recipe"].get("hold", 0)
        if held_out:
            return Finetune(data=self.source, hold=hold).images(backbone, held_out=True)
        source = data or self.source
        images = fitting(replace(source, size=source.size or backbone.stem).load("test"), backbone)
        names = self.about["names"]
        if images.label is not None and list(images.names) != names:
            raise ValueError(
                f"{images.name} has other classes ({', '.join(images.names[:3])}, ...) than the classifier "
                f"({', '.join(names[:3])}, ...); name the set that it was fine-tuned on by --data"
            )
        return images

    @contextmanager
    def seated(self, images: Images, runtime: Runtime) -> Iterator[Seat]:
        """Ready on the runtime's device; the network is where it was afterwards. ValueError if it has other classes."""
        runtime = replace(runtime, compile="no")  # what judges is the network as it stands
        fabric = replace(runtime, precision="float32").open()
        home = next(self.net.parameters(), torch.empty(0)).device
        self.net.to(fabric.device)
        try:
            net, images = self.net, images.to(fabric.device)
            _answering(net, images)
            world, search = replace(runtime, precision="float32").world(fabric.device), None
            if "names" in self.about:  # a run's own, which no one else holds
                replace(runtime, precision="float32").prepare(net)
                search = copy.deepcopy(net)
                net.fold = None  # it judges as it is
            if runtime.precision == "bf16":
                search, world = search or copy.deepcopy(net), world | {"search": "bf16"}
                runtime.prepare(search)
            yield Seat(net, folded(search) if "names" in self.about else search, images, world)
        finally:
            self.net.to(home)


class Seat(NamedTuple):
    """The network that is judged, the one that attacks look at if it is another, and the images, on one device.

    Of a run's own network attacks look at a folded copy: faster, and what it claims is decided by the network itself.
    """

    net: Network
    search: Network | None
    images: Images
    world: dict[str, Any]


@torch.no_grad()
def _answering(net: Network, images: Images) -> None:
    with frozen(net):
        logits = net(images.floats(slice(0, 2)), "adv")
    if logits.ndim != 2 or images.label is not None and logits.shape[1] != len(images.names):
        raise ValueError(
            f"the network gives an image answers of shape {tuple(logits.shape[1:])}, and {images.name} has "
            f"{len(images.names)} classes: needed is one logit a class"
        )


def _noted(run: Path, what: str) -> Any:
    """What a run noted at its end, if it lies where it was made and notes such things."""
    return read_json(run / "run.json", ENDED).get(what) if (run / "run.json").exists() else None
