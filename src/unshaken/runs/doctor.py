"""The doctor: check whether the evaluation of a classifier can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.attacks.ball import Ball
from unshaken.base.amounts import amount
from unshaken.base.python_words import in_python
from unshaken.base.rng import Key
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import STANDARD, UNKNOWN, DataSource, source_of
from unshaken.diagnostics.doctor import Checked, run_checks
from unshaken.diagnostics.leak import leak
from unshaken.diagnostics.subject import ModelUnderTest
from unshaken.evaluation.adapter import Adapter
from unshaken.interop.load import file_in
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import backbone_of, digest, load_classifier, load_encoder, readable_header
from unshaken.nets.dual_bn import routes_of, single_route
from unshaken.nets.locate import locate
from unshaken.nets.network import Network
from unshaken.recipes.datasets import defaults_for
from unshaken.train.image_sets import check_images_fit
from unshaken.train.training_images import TrainingImages

LIMIT, ATTACKED = 192, 48
"""The numbers of test images that are checked, and that are attacked too."""


@in_python
def doctor(
    classifier: Path | str | Callable[[Tensor], Any],
    images: DataSource | Images | Any = None,
    ball: Ball | None = None,
    *,
    limit: int = LIMIT,
    attacked: int = ATTACKED,
    seed: int = 1,
    runtime: Runtime = Runtime(),
) -> list[Checked]:
    """Look for signs that the attack or the setup fails, and not the defence. Returns every check.

    classifier  a fine-tuning run, a classifier file, OWNER/NAME on the Hub, or a module or function from images in
                [0, 1] to logits
    images      labelled test images, or anything that `Images.of` reads; by default those of the set that a run was
                fine-tuned on
    ball        the ball of the attack; by default the set's
    limit       number of test images, drawn at random
    attacked    number of these that are attacked too; 0 leaves attacks out
    """
    if images is not None and not isinstance(images, (Images, DataSource)):
        images = Images.of(*images) if isinstance(images, tuple) and len(images) == 2 else Images.of(images)
    if callable(classifier) and not isinstance(classifier, (str, Path)):
        if not isinstance(images, Images):
            raise ValueError("a module has no images of its own: give labelled ones, unshaken.Images.of(x, y)")
        net = classifier if isinstance(classifier, Network) else Network(Adapter(classifier), nn.Identity())  # pyright: ignore[reportArgumentType]
        ball = ball or defaults_for(DataSource(images.name)).ball
        return list(check_images(net, images, ball, None, limit, attacked, seed, runtime))
    net, file, about, source = read_classifier(locate(classifier))
    images = source if images is None else images
    ball = ball or defaults_for(images if isinstance(images, DataSource) else DataSource(images.name)).ball
    if isinstance(images, DataSource):
        images = test_images(images, backbone_of(about), len(about["names"]))
    seen = training_images_of(file, source, images)
    return list(check_images(net, images, ball, seen, limit, attacked, seed, runtime))


def read_classifier(path: Path) -> tuple[Network, Path, dict[str, Any], DataSource]:
    """Read a classifier with all routes of its encoder, its file, its metadata and the set it was fine-tuned on."""
    file = file_in(path)
    net, about = load_classifier(file)
    with readable_header(file):
        source = source_of(about["finetune"]["recipe"]["data"], file.parent)
    return with_all_routes(net, file), file, about, source


def with_all_routes(net: Network, file: Path) -> Network:
    """Put the classifier back on its encoder with all routes, if the encoder's file is still in its run."""
    file = file.parent.parent / "encoder.safetensors"
    if file.exists():
        encoder, _, _ = load_encoder(file)
        if len(routes_of(encoder)) > 1 and digest(single_route(encoder, "adv")) == digest(net.encoder):
            net = Network(encoder, net.head)
    return net.eval().requires_grad_(False)


def test_images(source: DataSource, backbone: Backbone, classes: int) -> Images:
    """Return the test images of a set, at the network's size. ValueError if their classes do not fit the classifier."""
    images = check_images_fit(replace(source, size=source.size or backbone.image_size).load("test"), backbone)
    if images.label is None or len(images.names) != classes:
        has = "no labels" if images.label is None else f"{amount(len(images.names), 'class', 'classes')}"
        raise ValueError(f"{images.name} has {has} and the classifier {classes} classes; name its set by --data")
    return images


def training_images_of(file: Path, tuned_on: DataSource, images: Images) -> TrainingImages:
    """Return the images that the classifier was trained on: by its run, else the user's training images."""
    seen = TrainingImages.beside(file)
    if seen.finetune is None and tuned_on.given is None and tuned_on.name not in (*STANDARD, UNKNOWN):
        train = replace(tuned_on, size=images.pixels.shape[-1]).load("train")
        seen = replace(seen, finetune=train.image_digests.numpy())
    return seen


def check_images(
    net: Network,
    images: Images,
    ball: Ball,
    seen: TrainingImages | None,
    limit: int,
    attacked: int,
    seed: int,
    runtime: Runtime,
) -> Iterator[Checked]:
    """Yield each check on random images. The first one is whether the classifier was trained on test images."""
    first = []
    if seen is not None:
        overlap = seen.overlap(images)
        first = [Checked("leak", leak(overlap), left_out=not overlap.known)]
    images = random_images(images, limit, seed)
    fabric = replace(runtime, precision="float32").open()
    net, images = net.to(fabric.device), images.to(fabric.device)
    if images.label is None:
        raise ValueError(f"{images.name} has no labels, and the doctor counts right answers: give labelled images")
    key = Key(seed) / "doctor"
    model = ModelUnderTest(lambda x: net(x, "adv"), images.floats(), images.label, ball, key, net)
    yield from chain(first, run_checks(model, attacked))


def random_images(images: Images, limit: int, seed: int) -> Images:
    """Return at most `limit` of the images, at random."""
    return images[torch.randperm(len(images), generator=(Key(seed) / "images").on("cpu"))[:limit]]
