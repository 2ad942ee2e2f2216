"""Who is evaluated: the classifier of a run, a network of timm's or torchvision's by name, or any module in Python."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unshaken.base.json_files import read_json
from unshaken.base.source_digest import code_of_function
from unshaken.compute.bn_folding import fold_batch_norms
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import DataSource, source_of
from unshaken.evaluation.adapter import Adapter
from unshaken.evaluation.class_map import Selected, Words, index_of, read_map
from unshaken.interop.import_checkpoint import UNKNOWN
from unshaken.nets.checkpoint import backbone_of, digest, load_classifier
from unshaken.nets.network import Network, frozen
from unshaken.nets.timm_nets import class_words, published_classifier
from unshaken.train.image_sets import check_images_fit, load_labelled
from unshaken.train.run_dir import RUN_FILE


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier, and what is known of it.

    about    "pretrain" and "finetune" as in a classifier's file
    seconds  of pre-training and fine-tuning, None where nobody knows
    spent    what those of pre-training went into, if that is known: warm-up, selections, training
    memory   that its pre-training took at most, in GB, if that is known
    folder   where its verdicts and results go; None for nowhere
    words    of a published network, what each of its logits stands for
    count    of its logits; 0 for what is no published network
    """

    net: Network
    weights: str
    about: dict[str, Any]
    seconds: dict[str, float | None]
    folder: Path | None = None
    spent: dict[str, float] | None = None
    words: Words = ()
    count: int = 0
    memory: float | None = None

    @property
    def trained_here(self) -> bool:
        """Whether it is of a fine-tuning run, or of an imported classifier; else it is somebody's code."""
        return "names" in self.about

    @property
    def known(self) -> dict[str, Any]:
        """What a result says of it."""
        parts = {part: self.about[part] for part in ("pretrain", "finetune")}
        spent = {"spent": self.spent} if self.spent else {}
        cost = {"cost": {"memory_gb": self.memory}} if self.memory else {}
        return parts | {"weights": self.weights, "seconds": self.seconds} | spent | cost

    @property
    def source(self) -> DataSource:
        """What it was fine-tuned on."""
        data = self.about["finetune"]["recipe"].get("data")
        if data is None:
            raise ValueError("a network that was not fine-tuned here has no images of its own: name them")
        return source_of(data, self.folder)

    @classmethod
    def of_run(cls, run: Path) -> Classifier:
        file = run / "classifier.safetensors"
        if not file.exists():
            hint = "its fine-tuning has not finished" if (run / "recipe.json").exists() else "name a fine-tuning run"
            raise ValueError(f"there is no classifier in {run}: {hint}")
        net, about = load_classifier(file)
        seconds = {"pretrain": _noted(run.parent, "seconds"), "finetune": _noted(run, "seconds")}
        spent, memory = _noted(run.parent, "spent"), _noted(run.parent, "memory_gb")
        return cls(net, digest(net), about, seconds, run, spent, memory=memory)

    @classmethod
    def of_module(cls, module: Callable[[Tensor], Any], name: str, folder: Path | None = None) -> Classifier:
        """Of a module or function that takes images in [0, 1] and gives logits: what it normalises by is inside it.

        A function has no weights to be known by: its code and its answers tell it from others.
        """
        recipe = {"type": "Given", "name": name, "seed": UNKNOWN}
        about = {"pretrain": {"recipe": recipe}, "finetune": {"recipe": recipe | {"method": {"type": "given"}}}}
        net = module if isinstance(module, Network) else Network(Adapter(module), nn.Identity())  # pyright: ignore[reportArgumentType]
        weights = digest(module) if isinstance(module, nn.Module) else f"function-{code_of_function(module)}"
        return cls(net, weights, about, {"pretrain": None, "finetune": None}, folder)

    @classmethod
    def of_name(cls, name: str) -> tuple[Classifier, int]:
        """timm/NAME or torchvision/NAME with published weights, and the side of its images."""
        module, side = published_classifier(name)
        candidate = cls.of_module(module, name, Path("runs") / name.replace("/", "-"))
        with frozen(module), torch.no_grad():
            count = module(torch.zeros(1, 3, side, side)).shape[-1]
        return replace(candidate, words=class_words(name, count), count=count), side

    def facing(self, names: tuple[str, ...], file: Path | None = None) -> Classifier:
        """It, answering for the classes of these names alone, in their order, where its own are known by name.

        file  class names to numbers of logits, or to names of the network's classes
        """
        if not self.count:  # it is no published network
            if file is not None:
                raise ValueError("--classes is for published networks: a run's classes are those it was fine-tuned on")
            return self
        index = index_of(names, self.words) if file is None else read_map(file, names, self.words, self.count)
        if index is None:
            if len(names) != self.count:
                raise ValueError(
                    f"the network has {self.count} classes, and knows none of these {len(names)} by name "
                    f"({', '.join(names[:3])}, ...): name the folders by class names or WordNet ids, or give a file, "
                    "--classes map.json, of class names and numbers of logits"
                )
            print(f"note: none of the {len(names)} classes is known by name: they are taken in order", file=sys.stderr)
            return self
        return self.answering(dict(zip(names, index, strict=True)))

    def answering(self, index: dict[str, int]) -> Classifier:
        """It, answering by some of its logits alone; the result names them."""
        if list(index.values()) == list(range(self.count)):
            return self
        shown = ", ".join(f"{name} {k}" for name, k in list(index.items())[:3])
        print(f"note: {len(index)} of {self.count} logits answer for the classes ({shown}, ...)", file=sys.stderr)
        name = self.about["finetune"]["recipe"]["name"]
        found = self.of_module(Selected(self.net.encoder.model, list(index.values())), name, self.folder)  # pyright: ignore[reportArgumentType]
        found.about["finetune"]["recipe"]["classes"] = index
        return found

    def images(self, data: DataSource | None = None, held_out: bool = False) -> Images:
        """A run's test images, or those of another set with the same classes; or what its fine-tuning kept aside."""
        if "names" not in self.about:  # no run, so all that is known is the number of its classes
            return (data or self.source).load("test")
        backbone, holdout = backbone_of(self.about), self.about["finetune"]["recipe"].get("holdout", 0)
        if held_out:
            return load_labelled(self.source, backbone, holdout, held_out=True)
        source = data or self.source
        images = check_images_fit(replace(source, size=source.size or backbone.image_size).load("test"), backbone)
        names = self.about["names"]
        if images.label is not None and list(images.names) != names:
            raise ValueError(
                f"{images.name} has other classes ({', '.join(images.names[:3])}, ...) than the classifier "
                f"({', '.join(names[:3])}, ...); name the set that it was fine-tuned on by --data"
            )
        return images

    def other_set(self, images: Images) -> str:
        """What another set of images is called than the one that a run was fine-tuned on; "" for that one."""
        own = self.about["finetune"].get("data", {}).get("images", {}).get("name") if self.trained_here else None
        word = "".join(c if c.isalnum() else "-" for c in Path(images.name).name.lower()).strip("-")[:32]
        return "" if own in (None, images.name) else word or "others"

    @contextmanager
    def prepared(self, images: Images, runtime: Runtime) -> Iterator[PreparedClassifier]:
        """Ready on the runtime's device; the network is where it was afterwards. ValueError if it has other classes."""
        runtime = replace(runtime, compile="no")  # what judges is the network as it stands
        fabric = replace(runtime, precision="float32").open()
        home = next(self.net.parameters(), torch.empty(0)).device
        self.net.to(fabric.device)
        try:
            net, images = self.net, images.to(fabric.device)
            gradients = _answering(net, images)
            world, search = replace(runtime, precision="float32").world(fabric.device), None
            if "names" in self.about:  # a run's own, which no one else holds
                replace(runtime, precision="float32").prepare(net)
                search = copy.deepcopy(net)
                net.computation = net.computation.without_folding()  # it judges as it is
            if runtime.precision == "bf16":
                search, world = search or copy.deepcopy(net), world | {"search": "bf16"}
                runtime.prepare(search)
            yield PreparedClassifier(
                net, fold_batch_norms(search) if "names" in self.about else search, images, world, gradients
            )  # pyright: ignore[reportArgumentType]
        finally:
            self.net.to(home)


class PreparedClassifier(NamedTuple):
    """The network that is judged, the one that attacks look at if it is another, and the images, on one device.

    Of a run's own network attacks look at a folded copy: faster, and what it claims is decided by the network itself.
    """

    net: Network
    search: Network | None
    images: Images
    world: dict[str, Any]
    gradients: bool = True

    @torch.no_grad()
    def answers(self, images: Images, places: Iterable[Tensor]) -> str:
        """A digest of the answers to some images, block by block: what weights do not say of a network."""
        total = blake2b(digest_size=8)
        with frozen(self.net):
            for index in places:
                total.update(self.net(images.floats(index), "adv").cpu().numpy().tobytes())
        return total.hexdigest()


@torch.no_grad()
def _answering(net: Network, images: Images) -> bool:
    """Whether gradients come through. ValueError if the answers are not logits of the images' classes."""
    x, adapted = images.floats(slice(0, 2)), net.encoder if isinstance(net.encoder, Adapter) else None
    if adapted is not None:
        adapted.classes = len(images.names) if images.label is not None else None
    with frozen(net):
        if adapted is not None:
            adapted.try_gradients(x)
        logits = net(x, "adv")
    if logits.ndim != 2 or images.label is not None and logits.shape[1] != len(images.names):
        raise ValueError(
            f"the network gives an image answers of shape {tuple(logits.shape[1:])}, and {images.name} has "
            f"{len(images.names)} classes: needed is one logit a class"
        )
    return adapted is None or adapted.gradients


def _noted(run: Path, what: str) -> Any:
    """What a run noted at its end, if it lies where it was made and notes such things."""
    return read_json(run / "run.json", RUN_FILE).get(what) if (run / "run.json").exists() else None
