"""LP-AFF, the ++ of DynACL++: pseudo-labels, a linear probe on them, then adversarial full fine-tuning.

Luo et al., ICLR 2023, arXiv:2303.01289, section 4.3 (PKU-ML/DYNACL, LPAFT.py at 7d143db); for DynACL-AIR, Xu et al.,
NeurIPS 2023, arXiv:2305.00374. No label of the images is used: the classes are k-means clusters of the encoder's own
features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.ranges import Count, Several, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.schedule import AnySchedule, Constant, MultiStep
from unshaken.base.serialize import to_json
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.base import Step
from unshaken.methods.full import AFF
from unshaken.methods.linear import SLF
from unshaken.methods.tuning import AnyTuning
from unshaken.nets.checkpoint import read_tensors, save_encoder, write_tensors
from unshaken.nets.dual_bn import routes_of
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network
from unshaken.recipes.pretrain import check_images_fit, image_identity, slug
from unshaken.runs.encoder import PretrainedEncoder, resolve_encoder
from unshaken.train.batches import BatchStream
from unshaken.train.loop import fit
from unshaken.train.optim import SGD, AnyOptimizer
from unshaken.train.run_dir import Run
from unshaken.train.training_images import pretrained_on
from unshaken.transforms.views import AnyTransform, CropFlip


@dataclass(frozen=True)
@ranged
class Stage:
    """One of the two trainings on pseudo-labels."""

    method: AnyTuning
    lr: AnySchedule
    epochs: Count
    batch_size: Several = 512
    optimizer: AnyOptimizer = SGD(momentum=0.9, weight_decay=1e-4)


@dataclass(frozen=True)
@ranged
class LPAFF:
    """Three stages: cluster f's clean features, fit a classifier on frozen f to the clusters, then TRADES on all of it.

    Only the adversarial route is trained, on clean and adversarial images alike. What comes out is an encoder.
    """

    name: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "dynacl++"
    teacher: str = "dynacl/cifar10"
    """The encoder: a recipe, then run first on the same images; a run; or a file."""
    data: DataSource = DataSource("cifar10")
    split: str = "train"
    clusters: Several = 10
    """Of k-means. 10 in DynACL's code, on CIFAR-100 too; as many as there are classes in AIR's."""
    views: AnyTransform = CropFlip()
    probe: Stage = Stage(SLF(), Constant(0.01), epochs=10)
    tune: Stage = Stage(AFF(natural="adv"), MultiStep(0.1, at=(10, 20)), epochs=25)
    dual: bool = True
    """Keep the clean route beside the adversarial one, as it was: the released encoders for dual AFF have it so, though
    the convolutions have moved away under it. False: the adversarial route alone, a plain encoder."""
    seed: Whole = 1

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ValueError("the test images are for the exam: an encoder that saw them proves nothing")
        if self.views.count != 1:
            raise ValueError(f"pseudo-labels are learned from 1 view of an image, not {self.views.count}")
        if self.clusters < 2:
            raise ValueError(f"there have to be at least 2 clusters, not {self.clusters}")

    def run(
        self, root: Path = Path("runs"), runtime: Runtime = Runtime(), save_every: float = 60, quiet: bool = False
    ) -> Path:
        """All stages, from where the last call stopped. Returns the run's directory, with encoder.safetensors in it.

        Each stage is kept as it ends: the labels in pseudo-labels.safetensors, the probe in its own run within.
        """
        given = PretrainedEncoder.read(resolve_encoder(self.teacher, self, root, runtime, save_every, quiet))
        source = replace(self.data, size=self.data.size or given.backbone.image_size)
        images = check_images_fit(source.load(self.split), given.backbone)
        data = {"images": image_identity(images), **runtime.identity, "teacher": given.identity}
        with Run.open(root, f"{self.name}-{slug(self.data)}", self, data) as run:
            pretrained_on(run.path, images, [given.seen])
            if run.finished("encoder.safetensors"):
                return run.path
            fabric = run.compute(runtime)
            images, key = images.to(fabric.device), Key(self.seed)
            file = run.path / "pseudo-labels.safetensors"
            label = given.clusters(file, images, (self.clusters,), key / "clusters")[:, 0].to(fabric.device)

            def learn(stage: Stage, net: Network, run: Run, place: str) -> None:
                runtime.prepare(net.to(fabric.device))
                feed = BatchStream(
                    images, self.views, Constant(1.0), stage.batch_size, stage.epochs, key / place, label
                )
                fit(Step(stage.method, net), feed, stage.optimizer, stage.lr, run, fabric, save_every, quiet)

            probe = Network(given.robust(), zero_classifier(given.encoder.features, self.clusters))
            with Run.open(run.path, "probe", self.probe, data) as first:
                first.note, first.worlds, first.same_world = run.note, [*run.worlds], run.same_world
                found = first.path / "head.safetensors"
                if not first.finished(found.name):
                    learn(self.probe, probe, first, "probe")
                    write_tensors(found, probe.head.state_dict(), {"kind": "head"})
                    first.finish(probe, runtime.world(fabric.device))
                probe.head.load_state_dict(read_tensors(found)[0])
            both = self.dual and "adv" in routes_of(given.encoder)
            net = Network(given.encoder if both else given.robust(), probe.head)
            learn(self.tune, net, run, "tune")
            origin = {"recipe": to_json(self), "data": data, "teacher": given.about["pretrain"]}
            save_encoder(run.path / "encoder.safetensors", net.encoder, given.backbone, {"pretrain": origin})
            write_fingerprint(run.path)
            run.finish(net, runtime.world(fabric.device))
            return run.path
