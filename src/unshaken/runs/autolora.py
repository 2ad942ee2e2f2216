"""AutoLoRa: fine-tuning whose learning rate and best epoch are chosen on validation images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from unshaken.base.distributed import processes
from unshaken.base.json_files import read_json, write_json
from unshaken.base.json_shapes import Items, Number
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.serialize import to_json
from unshaken.data.image_digests import VALIDATION
from unshaken.data.images import Images
from unshaken.evaluation.judge import judge
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.autolora import AutoLoRa
from unshaken.methods.base import Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import read_tensors, save_classifier, write_tensors
from unshaken.nets.dual_bn import merge_route, routes_of
from unshaken.nets.heads import zero_classifier
from unshaken.nets.lora import with_lora, without_lora
from unshaken.nets.network import Network
from unshaken.recipes.autolora import AutoFinetune
from unshaken.runs.computation import settled
from unshaken.runs.encoder import PretrainedEncoder
from unshaken.runs.workspace import Workspace
from unshaken.train.batches import BatchStream, Position
from unshaken.train.image_sets import image_identity, load_labelled
from unshaken.train.loop import Loop, training
from unshaken.train.training_images import finetuned_on

CLASSIFIER = "classifier.safetensors"


def finetune_autolora(recipe: AutoFinetune, given: PretrainedEncoder, beside: Path, workspace: Workspace) -> Path:
    """Fine-tune an encoder by AutoLoRa. Returns the run's folder, with classifier.safetensors.

    The classifier is W of the best epoch on the validation images, with the adversarial route. history.json has the
    robust accuracy on them after each epoch.
    """
    us = processes()
    images, aside = us.in_turn(lambda: training_and_validation(recipe, given.backbone))
    data = {"images": image_identity(images), "validation": image_identity(aside), "encoder": given.identity}
    key = Key(recipe.seed) / recipe.mode
    batches = BatchStream(images, recipe.views, Constant(1.0), recipe.batch_size, recipe.epochs, key, images.label)
    name = f"{recipe.mode}-{images.name}"
    workspace = settled(workspace, workspace.folder(name, recipe, beside), lambda: None)
    with workspace.open(name, recipe, data, beside) as run:
        us.first(lambda: finetuned_on(run.path, given.seen, images, aside))
        if not run.finished(CLASSIFIER):
            fabric = run.compute(workspace.runtime)
            net = first_network(recipe, given, len(images.names), key).to(fabric.device)
            step = Step(recipe.method, net)
            workspace.runtime.prepare(net)
            batches, aside = batches.to(fabric.device), aside.to(fabric.device)
            with training(step, batches, recipe.optimizer, workspace.execution(run, fabric)) as loop:
                train(recipe, net, loop, aside, History(run.path, loop.position))
            net.memory = None
            classifier = without_lora(merge_route(net, "adv"))
            origin = {"finetune": {"recipe": to_json(recipe), "data": run.data}, "pretrain": given.metadata["pretrain"]}
            us.first(lambda: save_classifier(run.path / CLASSIFIER, classifier, given.backbone, images.names, origin))
            us.first(lambda: write_fingerprint(run.path))
            run.finish(classifier, workspace.runtime.world(fabric.device))
        # not earlier: a run that is killed needs it to resume
        us.first(lambda: (run.path / BEST).unlink(missing_ok=True))
        return run.path


def training_and_validation(recipe: AutoFinetune, backbone: Backbone) -> tuple[Images, Images]:
    """Return the images to train on, and the validation images, which are held out of them."""
    images = load_labelled(recipe.data, backbone, recipe.holdout)
    aside = recipe.data.holdout_mask(images, recipe.aside, VALIDATION)
    if not aside.any():
        raise ValueError(
            f"no class has {recipe.aside} images, of which one is for validation; choose a smaller --aside"
        )
    validation = replace(images[aside.nonzero()[:, 0]], split="validation")
    return images[(~aside).nonzero()[:, 0]], validation


def first_network(recipe: AutoFinetune, given: PretrainedEncoder, classes: int, key: Key) -> Network:
    """Return the encoder with a zero classifier, the routes that the method needs and the LoRA branch.

    If the encoder has a single route, all images take it.
    """
    dual = len(recipe.method.routes) > 1 and set(recipe.method.routes) <= set(routes_of(given.encoder))
    encoder = given.encoder if dual else given.adversarial_route()
    encoder = with_lora(encoder, key / "branch", recipe.method.rank, recipe.method.alpha)
    return Network(encoder, zero_classifier(encoder.features, classes))


def train(recipe: AutoFinetune, net: Network, loop: Loop, aside: Images, history: History) -> None:
    """Train to the end, a quarter of an epoch at a time, and restore the best weights.

    What is done between quarters depends only on the run's position, so a resumed run repeats it bit for bit.
    """
    while True:
        place = loop.position
        if place.batch == 0 and place.epoch > len(history.values):
            history.note(net, processes().first(lambda: robust_accuracy(recipe, net, aside)))
        lr, reload = recipe.lr(history.values, recipe.epochs)
        if place.batch == 0 and place.epoch > 0:
            line = {"validation": history.values[-1], "lr": lr, "reloaded": reload}
            loop.run.log({"step": place.step, "epoch": place.epoch} | line)  # pyright: ignore[reportArgumentType]
        if place.epoch == recipe.epochs or (place.batch == 0 and reload):
            history.restore(net)
        if place.epoch == recipe.epochs:
            return
        ends = quarters(len(loop.feed))
        if place.batch in ends:
            share = processes().first(partial(accuracy, recipe.method, net, loop.feed, place))
            net.memory.accuracy.fill_(share)  # pyright: ignore[reportCallIssue]
        onward = next(batch for batch in (*ends, len(loop.feed)) if batch > place.batch)
        loop.go(Constant(lr), place.step + onward - place.batch)


def robust_accuracy(recipe: AutoFinetune, net: Network, aside: Images) -> float:
    """Return the robust accuracy on the validation images."""
    verdicts = judge(recipe.validation, net, aside)["pgd"]
    return verdicts.correct / len(verdicts)


BEST = "best.safetensors"


def quarters(batches: int) -> tuple[int, ...]:
    """Return the first batch of each quarter of an epoch; if there are fewer than four batches, every batch."""
    return tuple(sorted({quarter * batches // 4 for quarter in range(4)}))


def accuracy(method: AutoLoRa, net: Network, feed: BatchStream, place: Position) -> float:
    """Return the clean accuracy on all training images, with new augmentations."""
    key = feed.key / "accuracy" / place.step
    correct: list[Tensor] = []
    for at in range(0, len(feed.images), feed.batch_size):
        chunk = slice(at, at + feed.batch_size)
        (x,) = feed.views(feed.images.floats(chunk), 1.0, key / at)
        correct.append(method.correct(net, x, feed.label[chunk]).sum())
    return int(sum(correct)) / len(feed.images)


HISTORY = {"validation": Items(Number(0, 1))}
"""The shape of history.json."""


class History:
    """The robust accuracy on the validation images after each epoch, and the best weights, on disk.

    An epoch is added after the checkpoint at its end is written, and its weights are saved before its accuracy. So a
    run that is killed in between computes the same epoch again, and a run without a checkpoint starts anew.
    """

    def __init__(self, folder: Path, place: Position) -> None:
        self.file, self.best = folder / "history.json", folder / BEST
        found = read_json(self.file, HISTORY) if place.epoch and self.file.exists() else {}
        self.values: list[float] = found.get("validation", [])[: place.epoch]
        if len(self.values) < place.epoch - (place.batch == 0):
            raise ValueError(f"{self.file} lacks epochs that the checkpoint has; remove the checkpoint to start anew")

    def note(self, net: Network, value: float) -> None:
        better = not self.values or value > max(self.values)
        self.values.append(value)
        processes().first(lambda: self._write(net, better))

    def _write(self, net: Network, better: bool) -> None:
        if better:
            write_tensors(self.best, net.state_dict(), {"kind": "best", "epoch": len(self.values) - 1})
        write_json(self.file, {"validation": self.values})

    def restore(self, net: Network) -> None:
        """Load the best weights so far; the optimiser's momentum is unchanged."""
        net.load_state_dict(read_tensors(self.best)[0])
