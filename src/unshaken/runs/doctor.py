"""The doctor: checks that an evaluation of a classifier can be believed, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.attacks.ball import Ball
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
from unshaken.nets.network import Network
from unshaken.recipes.datasets import defaults_for
from unshaken.train.image_sets import check_images_fit
from unshaken.train.training_images import TrainingImages

LIMIT, ATTACKED = 192, 48
"""Test images that are looked at, and those of them that are attacked too."""


def doctor(
    classifier: Path | str | Callable[[Tensor], Any],
    images: DataSource | Images | None = None,
    ball: Ball | None = None,
    *,
    limit: int = LIMIT,
    attacked: int = ATTACKED,
    seed: int = 1,
    runtime: Runtime = Runtime(),
) -> list[Checked]:
    """Look for signs that an attack fails, or the set-up does, and not the defence. Returns every check.

    classifier  a fine-tuning run, a classifier file, or a module or function from images in [0, 1] to logits
    images      labelled test images; by default those of the set that a run was fine-tuned on
    ball        what the adversary may do; by default what goes with the set
    limit       number of test images, drawn from all of them
    attacked    number of these that are attacked too; 0 leaves attacks out
    """
    if callable(classifier) and not isinstance(classifier, (str, Path)):
        if not isinstance(images, Images):
            raise ValueError("a module has no images of its own: give labelled ones, unshaken.Images.of(x, y)")
        net = classifier if isinstance(classifier, Network) else Network(Adapter(classifier), nn.Identity())
        ball = ball or defaults_for(DataSource(images.name)).ball
        return list(examine_images(net, images, ball, None, limit, attacked, seed, runtime))
    net, file, about, source = read_classifier(Path(classifier))
    asked = source if images is None else images
    ball = ball or defaults_for(asked if isinstance(asked, DataSource) else DataSource(asked.name)).ball
    if isinstance(asked, DataSource):
        asked = test_images(asked, backbone_of(about), len(about["names"]))
    seen = learned_from(file, source, asked)
    return list(examine_images(net, asked, ball, seen, limit, attacked, seed, runtime))


def read_classifier(path: Path) -> tuple[Network, Path, dict[str, Any], DataSource]:
    """A classifier with all routes of its encoder, its file, what is noted about it, and the set it was tuned on."""
    file = file_in(path)
    net, about = load_classifier(file)
    with readable_header(file):
        source = source_of(about["finetune"]["recipe"]["data"], file.parent)
    return with_all_routes(net, file), file, about, source


def with_all_routes(net: Network, file: Path) -> Network:
    """The classifier on the encoder that it was put on, with all routes, if that lies where it was made."""
    beside = file.parent.parent / "encoder.safetensors"
    if beside.exists():
        encoder, _, _ = load_encoder(beside)
        if len(routes_of(encoder)) > 1 and digest(single_route(encoder, "adv")) == digest(net.encoder):
            net = Network(encoder, net.head)
    return net.eval().requires_grad_(False)


def test_images(source: DataSource, backbone: Backbone, classes: int) -> Images:
    """The test images of a set, at the network's size. ValueError if their classes are not the classifier's."""
    images = check_images_fit(replace(source, size=source.size or backbone.image_size).load("test"), backbone)
    if images.label is None or len(images.names) != classes:
        has = "no labels" if images.label is None else f"{len(images.names)} classes"
        raise ValueError(f"{images.name} has {has} and the classifier {classes} classes; name its set by --data")
    return images


def learned_from(file: Path, tuned_on: DataSource, images: Images) -> TrainingImages:
    """What the classifier was trained on: as its run noted it, else the training images of a set of one's own."""
    seen = TrainingImages.beside(file)
    if seen.finetune is None and tuned_on.name not in (*STANDARD, UNKNOWN):
        train = replace(tuned_on, size=images.pixels.shape[-1]).load("train")
        seen = replace(seen, finetune=train.image_digests.numpy())
    return seen


def examine_images(
    net: Network,
    images: Images,
    ball: Ball,
    seen: TrainingImages | None,
    limit: int,
    attacked: int,
    seed: int,
    runtime: Runtime,
) -> Iterator[Checked]:
    """The checks as they are made, on random images; the first is whether the classifier was trained on them."""
    first = []
    if seen is not None:
        overlap = seen.overlap(images)
        first = [Checked("leak", leak(overlap), left_out=not overlap.known)]
    images = drawn(images, limit, seed)
    fabric = replace(runtime, precision="float32").open()
    net, images = net.to(fabric.device), images.to(fabric.device)
    subject = ModelUnderTest(
        lambda x: net(x, "adv"), images.floats(), images.label, ball, Key(seed) / "doctor", net
    )  # fmt: skip
    yield from chain(first, run_checks(subject, attacked))


def drawn(images: Images, limit: int, seed: int) -> Images:
    """Random ones of the images, at most `limit`."""
    return images[torch.randperm(len(images), generator=(Key(seed) / "images").on("cpu"))[:limit]]
