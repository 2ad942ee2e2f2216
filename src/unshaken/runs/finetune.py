"""Fine-tuning: train a classifier on a pre-trained encoder, resume, or find it finished."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unshaken.attacks.ball import ball_of, in_words
from unshaken.base.distributed import processes
from unshaken.base.python_words import in_python
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.serialize import to_json
from unshaken.data.images import Images
from unshaken.data.source import UNKNOWN, DataSource, source_of
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.base import Method, Step
from unshaken.nets.checkpoint import save_classifier
from unshaken.nets.dual_bn import merge_route, routes_of, single_route
from unshaken.nets.heads import zero_classifier
from unshaken.nets.locate import home_of, is_repo, locate
from unshaken.nets.network import Encoder, Network
from unshaken.nets.shared_bn import use_ghost_batches
from unshaken.recipes.autolora import AutoFinetune, autolora
from unshaken.recipes.datasets import defaults_for
from unshaken.recipes.finetune import MODES, Finetune, Protocol, chosen
from unshaken.runs.autolora import finetune_autolora
from unshaken.runs.computation import settled
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.runs.scores import check_held_out, chosen_weights, robust_accuracy, scored
from unshaken.runs.workspace import Workspace
from unshaken.train.averaging import AveragedWeights
from unshaken.train.batch_statistics import take_weights
from unshaken.train.batches import BatchStream
from unshaken.train.best_weights import KeptWeights
from unshaken.train.computation_trial import Training
from unshaken.train.image_sets import image_identity, load_labelled
from unshaken.train.loop import fit
from unshaken.train.training_images import finetuned_on

CLASSIFIER = "classifier.safetensors"


@in_python
def finetune(
    encoder: Path | str,
    recipe: Finetune | AutoFinetune | str = "slf",
    workspace: Workspace = Workspace(),
    *,
    data: Any = None,
    observers: Iterable[Any] = (),
) -> Path:
    """Train a classifier on an encoder, resume it, or return the finished run: its folder has classifier.safetensors.

    encoder    a pre-training run, an encoder file, a folder for a hub, or OWNER/NAME on the Hub
    recipe     a fine-tuning recipe, or a mode (slf, alf, aff or autolora) with the field's choices for this encoder
    workspace  without a root, the run's folder is in the encoder's
    data       labelled images in place of the recipe's: a `DataSource`, `Images`, or anything that `Images.of` reads
    observers  objects that are told what happens, with some of the methods of `train.observers.Observer`

    Raises ValueError for a user's mistake, and Interrupted after a signal, once a checkpoint is written.
    """
    workspace = workspace.observed_by(observers)
    workspace.runtime.join()
    if is_repo(encoder) and workspace.root is None:
        workspace = replace(workspace, root=home_of(encoder))
    file = encoder_file(locate(encoder))
    source = None if data is None else DataSource.of(data)
    if isinstance(recipe, str):
        recipe = finetune_recipe(file, recipe, source)
    elif source is not None:
        recipe = replace(recipe, data=source)
    given = PretrainedEncoder.read(file)
    note_eps(given.metadata["pretrain"]["recipe"], recipe, workspace.quiet)
    if isinstance(recipe, AutoFinetune):
        return finetune_autolora(recipe, given, file.parent, workspace)
    return finetune_classifier(recipe, given, file.parent, workspace)


@in_python
def finetune_recipe(
    encoder: Path | str,
    mode: str,
    data: DataSource | None = None,
    leaked: bool = False,
    like: str | None = None,
) -> Finetune | AutoFinetune:
    """Return the field's choices for a mode and for the encoder's method, on the same images or on others.

    mode    slf, alf, aff or autolora
    leaked  with the epochs that the published numbers of AIR really used (finetune_presets.LEAKED)
    like    METHOD/SET: with the choices for an encoder pre-trained by this recipe
    """
    if mode not in (*MODES, "autolora"):
        raise ValueError(
            f"there is no mode {mode!r}; there are {', '.join(MODES)}, all for these three in turn, and autolora"
        )
    file = encoder_file(locate(encoder))
    given = PretrainedEncoder.read(file)
    pretrained = given.metadata["pretrain"]["recipe"]
    origin = source_of(pretrained["data"], file.parent)
    if mode == "autolora":
        return autolora(data or origin)
    return chosen(mode, pretrained["name"], origin, data or origin, given.backbone.image_size, leaked, like)


def protocol_for(encoder: Path, source: DataSource, like: str | None = None) -> Protocol:
    """Return the row of the presets for an encoder, by its metadata."""
    given = PretrainedEncoder.read(encoder_file(encoder))
    pretrained = given.metadata["pretrain"]["recipe"]
    origin = DataSource(pretrained["data"]["name"])  # only its name is used, and no image is read
    return Protocol.of(pretrained["name"], origin, source, given.backbone.image_size, like)


def finetune_classifier(recipe: Finetune, given: PretrainedEncoder, beside: Path, workspace: Workspace) -> Path:
    """Train by SLF, ALF or AFF on an encoder."""
    us = processes()
    images = us.in_turn(lambda: load_labelled(recipe.data, given.backbone, recipe.holdout))
    check_held_out(recipe.keep, recipe.holdout)
    held = [load_labelled(recipe.data, given.backbone, recipe.holdout, held_out=True)] if recipe.keep else []
    data = {"images": us.first(lambda: image_identity(images)), "encoder": given.identity}
    name = f"{recipe.mode}-{images.name}"
    workspace = settled(workspace, workspace.folder(name, recipe, beside), lambda: training_of(recipe, given, images))
    with workspace.open(name, recipe, data, beside) as run:
        us.first(lambda: finetuned_on(run.path, given.seen, images, *held))
        if run.finished(CLASSIFIER):
            return run.path
        fabric = run.compute(workspace.runtime)
        net = first_network(recipe, given, len(images.names)).to(fabric.device)
        step = Step(recipe.method, net)
        step.clip = recipe.clip
        workspace.runtime.prepare(net)
        use_ghost_batches(net, recipe.ghost_batch)
        key = Key(recipe.seed) / recipe.mode
        batches = BatchStream(
            images, recipe.views, Constant(1.0), recipe.batch_size, recipe.epochs, key, images.label
        )  # fmt: skip
        batches = batches.to(fabric.device)
        if recipe.averaging:
            updates = len(batches) * recipe.epochs * recipe.method.updates_per_batch
            step.average = AveragedWeights(recipe.averaging, net, updates)
        if recipe.keep:
            held = [scored(held[0], recipe.keep, key).to(fabric.device)]
            ball = ball_of(to_json(recipe.method)) or defaults_for(recipe.data).ball
            score = robust_accuracy(held[0], recipe.keep, ball, recipe.seed)
            step.kept = KeptWeights(recipe.keep, step, recipe.epochs, score)
        fit(step, batches, recipe.optimizer, recipe.lr, workspace.execution(run, fabric))
        take_weights(step, batches)
        kept = chosen_weights(step, sum(map(len, held)), "a robust accuracy of", workspace.quiet)
        origin = {"finetune": {"recipe": to_json(recipe), "data": run.data}, "pretrain": given.metadata["pretrain"]}
        classifier = merge_route(net, "adv")
        us.first(lambda: save_classifier(run.path / CLASSIFIER, classifier, given.backbone, images.names, origin))
        us.first(lambda: write_fingerprint(run.path))
        run.finish(classifier, workspace.runtime.world(fabric.device), kept)
        return run.path


def first_network(recipe: Finetune, given: PretrainedEncoder, classes: int) -> Network:
    """Return the encoder with a new linear classifier."""
    head = zero_classifier(given.encoder.features, classes)
    return Network(with_routes_for(recipe.method, given.encoder), head)


def training_of(recipe: Finetune, given: PretrainedEncoder, images: Images, count: int | None = None) -> Training:
    """Return the work of a fine-tuning; `count` is the number of images, if these are only some of them."""
    net, (found, *shape) = first_network(recipe, given, len(images.names)), images.pixels.shape
    return Training(net, recipe.method, recipe.epochs * (count or found), recipe.batch_size, tuple(shape))  # pyright: ignore[reportArgumentType]


def with_routes_for(method: Method, encoder: Encoder) -> Encoder:
    """Return the encoder with the routes that the method needs: all of them, or only the adversarial one.

    An encoder pre-trained without attacks has a single route, which takes every image.
    """
    routes = routes_of(encoder)
    if set(method.routes) <= set(routes) and len(method.routes) > 1:
        return encoder
    return single_route(encoder, "adv")


def labelled_source(encoder: Path, data: str | None, size: int | None) -> DataSource:
    """Return the set that an encoder was pre-trained on, or the set `data`, at its own size or at `size`."""
    file = encoder_file(encoder)
    recipe = PretrainedEncoder.read(file).metadata["pretrain"]["recipe"]
    if recipe["name"] == UNKNOWN:
        print(f"{file} does not say which method made it: the presets are those of unknown methods", file=sys.stderr)
    own = source_of(recipe["data"], file.parent)
    source = replace(own, name=data, size=None, limit=None, given=None) if data else own
    return replace(source, size=size) if size else source


def note_eps(pretrained: dict[str, Any], recipe: Finetune | AutoFinetune, quiet: bool) -> None:
    """Print a note if fine-tuning takes the set's usual adversary, and pre-training took another."""
    before, now, usual = (
        ball_of(pretrained.get("method")),
        ball_of(to_json(recipe.method)),
        defaults_for(recipe.data).ball,
    )
    if before is not None and before != now and now == usual and not quiet:
        print(
            f"note: pre-trained at {in_words(before)}, and fine-tuned at {in_words(usual)}, the default for this set; "
            "--method.attack.ball.eps changes it",
            file=sys.stderr,
        )
