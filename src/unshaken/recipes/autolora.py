"""AutoLoRa as a recipe: rate, weights and the epoch that is kept are chosen on training images kept aside.

Xu et al., ICLR 2024, arXiv:2310.01818. The released code validates on the training images themselves, and takes the
epoch that is best on the test images; no test image is seen here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json
from unshaken.base.json_shapes import Items, Number
from unshaken.base.ranges import Count, Natural, Several, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.serialize import to_json
from unshaken.compute.runtime import Runtime
from unshaken.data.image_digests import ASIDE
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.autolora import AutoLoRa, AutoRate
from unshaken.methods.base import Step
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import load_encoder, read_tensors, save_classifier, write_tensors
from unshaken.nets.dual_bn import merge_route, routes_of
from unshaken.nets.heads import zero_classifier
from unshaken.nets.lora import with_lora, without_lora
from unshaken.nets.network import Network
from unshaken.recipes.datasets import defaults_for, source_of
from unshaken.recipes.finetune import Finetune, tell_eps
from unshaken.recipes.pretrain import image_identity
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.train.batches import BatchStream, Position
from unshaken.train.loop import Loop, training
from unshaken.train.optim import SGD, AnyOptimizer
from unshaken.train.run_dir import Run
from unshaken.train.training_images import finetuned_on
from unshaken.transforms.views import AnyTransform, CropFlip


@dataclass(frozen=True)
@ranged
class AutoFinetune:
    """A classifier on an encoder by AutoLoRa. A recipe like `Finetune`, and a run like its runs."""

    method: AutoLoRa = AutoLoRa()
    data: DataSource = DataSource("cifar10")
    views: AnyTransform = CropFlip()
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=2e-4)
    lr: AutoRate = AutoRate()
    epochs: Count = 50
    batch_size: Several = 128
    aside: Several = 20
    """Every so many-th training image of each class is not trained on: after each epoch the robust accuracy there says
    what becomes of the rate, and which epoch is kept."""
    validation: Evaluation = Evaluation()
    """That robust accuracy: under PGD-20."""
    holdout: Natural = 0
    """Every so many-th training image of each class is kept from all this too, for choices between recipes
    (`evaluate --held-out` judges there); 0 keeps none."""
    seed: Whole = 1

    def __post_init__(self) -> None:
        if self.aside < 2:
            raise ValueError(
                f"aside is how many images of a class there are to one kept aside, 2 or more; not {self.aside}"
            )
        _ = self._images  # which checks hold and views as for any fine-tuning

    @property
    def mode(self) -> str:
        return type(self.method).__name__.lower()

    @property
    def _images(self) -> Finetune:
        """The fine-tuning on the same images."""
        return Finetune(self.method, self.data, self.views, holdout=self.holdout)

    def run(
        self,
        encoder: Path,
        root: Path | None = None,
        runtime: Runtime = Runtime(),
        save_every: float = 60,
        quiet: bool = False,
    ) -> Path:
        """Train, go on training, or find it done; beside the encoder unless `root` says otherwise.

        encoder  a pre-training run or an encoder file
        Returns the run's directory, with classifier.safetensors in it: W of the epoch that was best on the images kept
        aside, through the adversarial route. history.json has the robust accuracy there after each epoch.
        """
        file = encoder_file(encoder)
        given = PretrainedEncoder.read(file)
        images, aside = self.images(given.backbone)
        data = {"images": image_identity(images), "validation": image_identity(aside), **runtime.identity}
        data |= {"encoder": given.identity}
        tell_eps(given.about["pretrain"]["recipe"], self.method, quiet)
        key = Key(self.seed) / self.mode
        feed = BatchStream(images, self.views, Constant(1.0), self.batch_size, self.epochs, key, images.label)
        with Run.open(root or file.parent, f"{self.mode}-{images.name}", self, data) as run:
            finetuned_on(run.path, given.seen, images, aside)
            if not run.finished("classifier.safetensors"):
                fabric = run.compute(runtime)
                net = self.network(given, len(images.names), key).to(fabric.device)
                step = Step(self.method, net)
                runtime.prepare(net)
                feed, aside = feed.to(fabric.device), aside.to(fabric.device)
                with training(step, feed, self.optimizer, run, fabric, save_every, quiet) as course:
                    self._learn(net, course, aside, History(run.path, course.place))
                net.memory = None
                plain_net = without_lora(merge_route(net, "adv"))
                origin = {"finetune": {"recipe": to_json(self), "data": data}, "pretrain": given.about["pretrain"]}
                save_classifier(run.path / "classifier.safetensors", plain_net, given.backbone, images.names, origin)
                write_fingerprint(run.path)
                run.finish(plain_net, runtime.world(fabric.device))
            (run.path / BEST).unlink(missing_ok=True)  # only now: until then a run that is killed needs it
            return run.path

    def images(self, backbone: Backbone) -> tuple[Images, Images]:
        """What is trained on, and what is kept aside of it to choose by."""
        images = self._images.images(backbone)
        aside = self.data.aside(images, self.aside, ASIDE)
        if not aside.any():
            raise ValueError(f"no class has {self.aside} images to keep one aside; choose a smaller --aside")
        kept = images[aside.nonzero()[:, 0]]
        return images[(~aside).nonzero()[:, 0]], replace(kept, split="validation")

    def network(self, given: PretrainedEncoder, classes: int, key: Key) -> Network:
        """A classifier that starts at zero on the encoder, with the routes that the method asks for and the branch.

        Without two routes in the encoder all images take the one for adversarial images, or the only one there is.
        """
        dual = len(self.method.routes) > 1 and set(self.method.routes) <= set(routes_of(given.encoder))
        encoder = given.encoder if dual else given.robust()
        encoder = with_lora(encoder, key / "branch", self.method.rank, self.method.alpha)
        return Network(encoder, zero_classifier(encoder.features, classes))

    def _learn(self, net: Network, course: Loop, aside: Images, history: History) -> None:
        """Leg by leg to the end, and back to the best weights. All that is done between legs follows from where the
        run is, so that one that was stopped does it again, to the same bits.
        """
        while True:
            place = course.place
            if place.batch == 0 and place.epoch > len(history.values):
                history.note(net, self._robust(net, aside))
            lr, again = self.lr(history.values, self.epochs)
            if place.batch == 0 and place.epoch > 0:
                line = {"validation": history.values[-1], "lr": lr, "reloaded": again}
                course.run.log({"step": place.step, "epoch": place.epoch} | line)  # pyright: ignore[reportArgumentType]
            if place.epoch == self.epochs or (place.batch == 0 and again):
                history.lend(net)
            if place.epoch == self.epochs:
                return
            ends = quarters(len(course.feed))
            if place.batch in ends:
                net.memory.accuracy.fill_(accuracy(self.method, net, course.feed, place))  # pyright: ignore[reportCallIssue]
            onward = next(batch for batch in (*ends, len(course.feed)) if batch > place.batch)
            course.go(Constant(lr), place.step + onward - place.batch)

    def _robust(self, net: Network, aside: Images) -> float:
        verdicts = self.validation.judge(net, aside)["pgd"]
        return verdicts.correct / len(verdicts)


BEST = "best.safetensors"


def quarters(batches: int) -> tuple[int, ...]:
    """The batches that begin a quarter of an epoch; of fewer than four batches, each."""
    return tuple(sorted({quarter * batches // 4 for quarter in range(4)}))


def accuracy(method: AutoLoRa, net: Network, feed: BatchStream, place: Position) -> float:
    """SA: on every training image, augmented anew."""
    key = feed.key / "accuracy" / place.step
    right: list[Tensor] = []
    for at in range(0, len(feed.images), feed.batch_size):
        part = slice(at, at + feed.batch_size)
        (x,) = feed.views(feed.images.floats(part), 1.0, key / at)
        right.append(method.correct(net, x, feed.label[part]).sum())
    return int(sum(right)) / len(feed.images)


HISTORY = {"validation": Items(Number(0, 1))}
"""What history.json says."""


class History:
    """The robust accuracy on validation images after each epoch, and the weights of the best, on disk.

    An epoch's is noted once the checkpoint of its end is written, its weights before its number: so what is here is
    never ahead of the checkpoint by more than what is then found again, and a run without a checkpoint begins anew.
    """

    def __init__(self, folder: Path, place: Position) -> None:
        self.file, self.best = folder / "history.json", folder / BEST
        found = read_json(self.file, HISTORY) if place.epoch and self.file.exists() else {}
        known = found.get("validation", [])
        self.values: list[float] = known[: place.epoch]
        if len(self.values) < place.epoch - (place.batch == 0):
            raise ValueError(f"{self.file} lacks epochs that the checkpoint has; remove the checkpoint to begin anew")

    def note(self, net: Network, value: float) -> None:
        if not self.values or value > max(self.values):
            write_tensors(self.best, net.state_dict(), {"kind": "best", "epoch": len(self.values)})
        self.values.append(value)
        write_json(self.file, {"validation": self.values})

    def lend(self, net: Network) -> None:
        """The best weights so far; the optimiser's momentum stays."""
        net.load_state_dict(read_tensors(self.best)[0])


def autolora(encoder: Path, data: DataSource | None = None) -> AutoFinetune:
    """The published choices for what pre-trained the encoder, on the same images or on others; for digits our own."""
    file = encoder_file(encoder)
    _, _, about = load_encoder(file)
    return published(data or source_of(about["pretrain"]["recipe"]["data"], file.parent))


def published(source: DataSource) -> AutoFinetune:
    """The published choices for a set; for digits our own."""
    setting = defaults_for(source)
    recipe = AutoFinetune(
        AutoLoRa(PGD(setting.ball, steps=10, init="gaussian")),
        source,
        setting.weak,
        validation=Evaluation(PGD(setting.ball, steps=20)),
    )
    if source.name == "digits":
        return replace(recipe, **DIGITS)
    return recipe


DIGITS: dict[str, Any] = {"epochs": 15, "aside": 10}
"""Chosen on a quarter held out of the training images, for accuracy within the demo's minutes."""
