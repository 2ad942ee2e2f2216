"""The classifier to evaluate: from a run, from timm or torchvision, or any module."""

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
from unshaken.interop.load import file_in
from unshaken.nets.checkpoint import backbone_of, digest, load_classifier
from unshaken.nets.locate import home_of, is_repo, locate
from unshaken.nets.network import Network, device_of, frozen
from unshaken.nets.timm_nets import class_words, published_classifier
from unshaken.train.computation_trial import fixed_computation
from unshaken.train.image_sets import check_images_fit, load_labelled
from unshaken.train.run_dir import RUN_FILE


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier and its provenance.

    weights   a digest of its weights, or of a function's code
    metadata  "pretrain" and "finetune" as in a classifier's file
    seconds   by phase, pre-training and fine-tuning; None if they are unknown
    folder    the folder for verdicts and results; None: they are not written
    spent     the seconds of pre-training by warm-up, selections and training, if they are known
    words     for a published network, the names of each logit's class
    count     for a published network, the number of its logits; else 0
    memory    the peak memory of pre-training in GB, if it is known
    """

    net: Network
    weights: str
    metadata: dict[str, Any]
    seconds: dict[str, float | None]
    folder: Path | None = None
    spent: dict[str, float] | None = None
    words: Words = ()
    count: int = 0
    memory: float | None = None

    @property
    def trained_here(self) -> bool:
        """It comes from a fine-tuning run or an imported file; otherwise from a module or function."""
        return "names" in self.metadata

    @property
    def provenance(self) -> dict[str, Any]:
        """The recipes, the cost and the digest that a result stores."""
        recipes = {phase: self.metadata[phase] for phase in ("pretrain", "finetune")}
        spent = {"spent": self.spent} if self.spent else {}
        cost = {"cost": {"memory_gb": self.memory}} if self.memory else {}
        return recipes | {"weights": self.weights, "seconds": self.seconds} | spent | cost

    @property
    def source(self) -> DataSource:
        """The images that it was fine-tuned on."""
        data = self.metadata["finetune"]["recipe"].get("data")
        if data is None:
            raise ValueError("a network that was not fine-tuned here has no images of its own: name them")
        return source_of(data, self.folder)

    @classmethod
    def of_run(cls, run: Path) -> Classifier:
        """Read the classifier of a finished fine-tuning run."""
        file = run / "classifier.safetensors"
        if not file.exists():
            inside = sorted(str(found.parent) for found in run.glob("*/classifier.safetensors"))
            hint = "its fine-tuning has not finished" if (run / "recipe.json").exists() else "name a fine-tuning run"
            hint = f"name one of those that were fine-tuned on it: {', '.join(inside)}" if inside else hint
            raise ValueError(f"there is no classifier in {run}: {hint}")
        net, metadata = load_classifier(file)
        seconds = {"pretrain": _at_end(run.parent, "seconds"), "finetune": _at_end(run, "seconds")}
        spent, memory = _at_end(run.parent, "spent"), _at_end(run.parent, "memory_gb")
        return cls(net, digest(net), metadata, seconds, run, spent, memory=memory)

    @classmethod
    def of_file(cls, name: Path | str, folder: Path | None = None) -> Classifier:
        """Read an exported or downloaded classifier: a file, a folder for a hub, or OWNER/NAME on the Hub.

        folder  where verdicts and results are written; by default runs/NAME, and nothing is written beside the file
        """
        file = file_in(locate(name))
        net, metadata = load_classifier(file)
        weights = digest(net)
        stem = home_of(name).name if is_repo(name) else f"{(file.parent if Path(name).is_dir() else file).stem}"
        folder = Path("runs") / f"{stem}-{weights[:8]}" if folder is None else folder
        return cls(net, weights, metadata, {"pretrain": None, "finetune": None}, folder)

    @classmethod
    def of_module(cls, module: Callable[[Tensor], Any], name: str, folder: Path | None = None) -> Classifier:
        """Wrap a module or function from images in [0, 1] to logits, with its normalisation inside.

        A function has no weights, so it is identified by its code and its answers.
        """
        recipe = {"type": "Given", "name": name, "seed": UNKNOWN}
        metadata = {"pretrain": {"recipe": recipe}, "finetune": {"recipe": recipe | {"method": {"type": "given"}}}}
        net = module if isinstance(module, Network) else Network(Adapter(module), nn.Identity())  # pyright: ignore[reportArgumentType]
        weights = digest(module) if isinstance(module, nn.Module) else f"function-{code_of_function(module)}"
        return cls(net, weights, metadata, {"pretrain": None, "finetune": None}, folder)

    @classmethod
    def of_name(cls, name: str) -> tuple[Classifier, int]:
        """Return timm/NAME or torchvision/NAME with published weights, and the size of its images."""
        module, size = published_classifier(name)
        classifier = cls.of_module(module, name, Path("runs") / name.replace("/", "-"))
        with frozen(module), torch.no_grad():
            count = module(torch.zeros(1, 3, size, size)).shape[-1]
        return replace(classifier, words=class_words(name, count), count=count), size

    def for_classes(self, names: tuple[str, ...], file: Path | None = None) -> Classifier:
        """Return the classifier with the logits of these classes only, in their order. A run's classifier is unchanged.

        file  a JSON file from class names to numbers of logits, or to names of the network's classes
        """
        if not self.count:  # not a published network
            if file is not None:
                raise ValueError("--classes is for published networks: a run's classes are those it was fine-tuned on")
            return self
        index = index_of(names, self.words) if file is None else read_map(file, names, self.words, self.count)
        if index is None:
            if len(names) != self.count:
                raise ValueError(
                    f"the network has {self.count} classes, and none of these {len(names)} by name "
                    f"({', '.join(names[:3])}, ...): name the folders by class names or WordNet ids, or give a file, "
                    "--classes map.json, of class names and numbers of logits"
                )
            print(
                f"note: the network has none of the {len(names)} classes by name: they are taken in order",
                file=sys.stderr,
            )
            return self
        return self.with_logits(dict(zip(names, index, strict=True)))

    def with_logits(self, index: dict[str, int]) -> Classifier:
        """Return the classifier with some of its logits only. They are named in the result."""
        if list(index.values()) == list(range(self.count)):
            return self
        shown = ", ".join(f"{name} {k}" for name, k in list(index.items())[:3])
        print(f"note: {len(index)} of {self.count} logits answer for the classes ({shown}, ...)", file=sys.stderr)
        name = self.metadata["finetune"]["recipe"]["name"]
        found = self.of_module(Selected(self.net.encoder.model, list(index.values())), name, self.folder)  # pyright: ignore[reportArgumentType]
        found.metadata["finetune"]["recipe"] = self.metadata["finetune"]["recipe"] | {"classes": index}
        return found

    def images(self, data: DataSource | None = None, held_out: bool = False) -> Images:
        """Return the test images of the run's set, or of another set with the same classes.

        held_out  return the training images that fine-tuning held out instead
        """
        if not self.trained_here:  # only the number of its classes can be checked, and `prepared` does it
            return (data or self.source).load("test")
        backbone, holdout = backbone_of(self.metadata), self.metadata["finetune"]["recipe"].get("holdout", 0)
        if held_out:
            return load_labelled(self.source, backbone, holdout, held_out=True)
        source = data or self.source
        images = check_images_fit(replace(source, size=source.size or backbone.image_size).load("test"), backbone)
        names = self.metadata["names"]
        if images.label is not None and list(images.names) != names:
            raise ValueError(
                f"{images.name} has other classes ({', '.join(images.names[:3])}, ...) than the classifier "
                f"({', '.join(names[:3])}, ...); name the set that it was fine-tuned on by --data"
            )
        return images

    def other_set_name(self, images: Images) -> str:
        """Return the set's name for a file name, if it is not the one that the run was fine-tuned on; else ""."""
        own = self.metadata["finetune"].get("data", {}).get("images", {}).get("name") if self.trained_here else None
        word = "".join(c if c.isalnum() else "-" for c in Path(images.name).name.lower()).strip("-")[:32]
        return "" if own in (None, images.name) else word or "others"

    @contextmanager
    def prepared(self, images: Images, runtime: Runtime, alone: bool = True) -> Iterator[PreparedClassifier]:
        """Move the network and the images to the runtime's device, and the network back afterwards.

        alone  no other process has a share of the work
        Raises ValueError if the network's logits do not fit the classes.
        """
        runtime = replace(fixed_computation(runtime, self.net), compile="no")  # the network that judges runs uncompiled
        fabric = replace(runtime, precision="float32").open("warn" if alone else "apart")
        home = device_of(self.net)
        self.net.to(fabric.device)
        try:
            net, images = self.net, images.to(fabric.device)
            gradients = _check_logits(net, images)
            world, search = replace(runtime, precision="float32").world(fabric.device), None
            if self.trained_here:  # no other code holds this network, so it may be prepared in place
                replace(runtime, precision="float32").prepare(net)
                search = copy.deepcopy(net)
                net.computation = net.computation.without_folding()  # its batch norms are not folded where it judges
            if runtime.precision == "bf16":
                search, world = search or copy.deepcopy(net), world | {"search": "bf16"}
                runtime.prepare(search)
            if self.trained_here and search is not None:
                search = fold_batch_norms(search)
            yield PreparedClassifier(net, search, images, world, gradients)
        finally:
            self.net.to(home)


class PreparedClassifier(NamedTuple):
    """A classifier and images on one device.

    net        the network that is judged
    search     the network that attacks search on, if it is another one. For a run it is a copy with folded batch norms,
               which is faster; `net` decides whether an image that it finds is misclassified
    world      the environment that a result stores
    gradients  gradients come through the network
    """

    net: Network
    search: Network | None
    images: Images
    world: dict[str, Any]
    gradients: bool = True

    @torch.no_grad()
    def answers(self, images: Images, blocks: Iterable[Tensor]) -> str:
        """Return a digest of the answers to some images: code can change them while the weights stay the same."""
        total = blake2b(digest_size=8)
        with frozen(self.net):
            for index in blocks:
                total.update(self.net(images.floats(index), "adv").cpu().numpy().tobytes())
        return total.hexdigest()


@torch.no_grad()
def _check_logits(net: Network, images: Images) -> bool:
    """Return whether gradients come through. ValueError if the outputs are not logits of the images' classes."""
    x, adapted = images.floats(slice(0, 2)), net.encoder if isinstance(net.encoder, Adapter) else None
    if adapted is not None:
        adapted.classes = len(images.names) if images.label is not None else None
    with frozen(net):
        if adapted is not None:
            adapted.try_gradients(x)
        logits = net(x, "adv")
    if logits.ndim != 2 or images.label is not None and logits.shape[1] != len(images.names):
        raise ValueError(
            f"the network's output for an image has the shape {tuple(logits.shape[1:])}, and {images.name} has "
            f"{len(images.names)} classes: it needs one logit for each class"
        )
    return adapted is None or adapted.gradients


def _at_end(run: Path, what: str) -> Any:
    """Return a value that a run wrote at its end, or None if there is none."""
    return read_json(run / "run.json", RUN_FILE).get(what) if (run / "run.json").exists() else None
