"""Fine-tuning: train a classifier on a pre-trained encoder, resume it, or find it finished."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from unshaken.attacks.ball import ball_of, in_words
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.serialize import to_json
from unshaken.data.source import UNKNOWN, DataSource, source_of
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.base import Method, Step
from unshaken.nets.checkpoint import save_classifier
from unshaken.nets.dual_bn import merge_route, routes_of, single_route
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Encoder, Network
from unshaken.recipes.autolora import AutoFinetune, autolora
from unshaken.recipes.finetune import MODES, Finetune, Protocol, chosen
from unshaken.runs.autolora import finetune_autolora
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.runs.workspace import Workspace
from unshaken.train.batches import BatchStream
from unshaken.train.image_sets import image_identity, load_labelled
from unshaken.train.loop import fit
from unshaken.train.training_images import finetuned_on

CLASSIFIER = "classifier.safetensors"


def finetune(
    encoder: Path | str, recipe: Finetune | AutoFinetune | str = "slf", workspace: Workspace = Workspace()
) -> Path:
    """Train a classifier on an encoder, resume it, or find it finished. Returns the run's folder, with
    classifier.safetensors.

    encoder    a pre-training run or an encoder file
    recipe     a fine-tuning recipe, or a mode, slf, alf, aff or autolora, with the field's choices for this encoder
    workspace  without a root, the run lies beside the encoder

    Raises ValueError for a user's mistake, and Interrupted after a signal, once a checkpoint is written.
    """
    file = encoder_file(Path(encoder))
    if isinstance(recipe, str):
        recipe = finetune_recipe(file, recipe)
    given = PretrainedEncoder.read(file)
    tell_eps(given.metadata["pretrain"]["recipe"], recipe.method, workspace.quiet)
    train = finetune_autolora if isinstance(recipe, AutoFinetune) else finetune_classifier
    return train(recipe, given, file.parent, workspace)


def finetune_recipe(
    encoder: Path | str,
    mode: str,
    data: DataSource | None = None,
    leaked: bool = False,
    like: str | None = None,
) -> Finetune | AutoFinetune:
    """The field's choices for a mode and for what pre-trained the encoder, on the same images or on others.

    mode    slf, alf, aff or autolora
    leaked  with the epochs that the published AIR numbers were in fact fine-tuned for (finetune_presets.LEAKED)
    like    METHOD/SET: as for an encoder that this recipe pre-trained
    """
    if mode not in (*MODES, "autolora"):
        raise ValueError(
            f"there is no mode {mode!r}; there are {', '.join(MODES)}, all for these three in turn, and autolora"
        )
    file = encoder_file(Path(encoder))
    given = PretrainedEncoder.read(file)
    pretrained = given.metadata["pretrain"]["recipe"]
    origin = source_of(pretrained["data"], file.parent)
    if mode == "autolora":
        return autolora(data or origin)
    return chosen(mode, pretrained["name"], origin, data or origin, given.backbone.image_size, leaked, like)


def protocol_for(encoder: Path, source: DataSource, like: str | None = None) -> Protocol:
    """Which row of the presets an encoder takes, by what is noted about it."""
    given = PretrainedEncoder.read(encoder_file(encoder))
    pretrained = given.metadata["pretrain"]["recipe"]
    origin = DataSource(pretrained["data"]["name"])  # only its name is used: nothing is opened
    return Protocol.of(pretrained["name"], origin, source, given.backbone.image_size, like)


def finetune_classifier(recipe: Finetune, given: PretrainedEncoder, beside: Path, workspace: Workspace) -> Path:
    """SLF, ALF or AFF of an encoder that has been read."""
    images = load_labelled(recipe.data, given.backbone, recipe.holdout)
    data = {"images": image_identity(images), "encoder": given.identity}
    with workspace.open(f"{recipe.mode}-{images.name}", recipe, data, beside) as run:
        finetuned_on(run.path, given.seen, images)
        if run.finished(CLASSIFIER):
            return run.path
        fabric = run.compute(workspace.runtime)
        head = zero_classifier(given.encoder.features, len(images.names))
        net = Network(with_routes_for(recipe.method, given.encoder), head).to(fabric.device)
        step = Step(recipe.method, net)
        workspace.runtime.prepare(net)
        key = Key(recipe.seed) / recipe.mode
        batches = BatchStream(
            images, recipe.views, Constant(1.0), recipe.batch_size, recipe.epochs, key, images.label
        )  # fmt: skip
        how = (recipe.optimizer, recipe.lr, run, fabric, workspace.save_every, workspace.quiet)
        fit(step, batches.to(fabric.device), *how)
        origin = {"finetune": {"recipe": to_json(recipe), "data": run.data}, "pretrain": given.metadata["pretrain"]}
        classifier = merge_route(net, "adv")
        save_classifier(run.path / CLASSIFIER, classifier, given.backbone, images.names, origin)
        write_fingerprint(run.path)
        run.finish(classifier, workspace.runtime.world(fabric.device))
        return run.path


def with_routes_for(method: Method, encoder: Encoder) -> Encoder:
    """The encoder with the routes that the method asks for: all it has, or the adversarial one alone.

    An encoder that never saw an attack has only the clean route, which then takes every image.
    """
    routes = routes_of(encoder)
    if set(method.routes) <= set(routes) and len(method.routes) > 1:
        return encoder
    return single_route(encoder, "adv")


def labelled_source(encoder: Path, data: str | None, size: int | None) -> DataSource:
    """The set that an encoder was pre-trained on, or another one, in its stored size or another."""
    file = encoder_file(encoder)
    recipe = PretrainedEncoder.read(file).metadata["pretrain"]["recipe"]
    if recipe["name"] == UNKNOWN:
        print(f"{file} does not say which method made it: the presets are those of unknown methods", file=sys.stderr)
    known = source_of(recipe["data"], file.parent)
    source = replace(known, name=data, size=None, limit=None) if data else known
    return replace(source, size=size) if size else source


def tell_eps(pretrained: dict[str, Any], method: Method, quiet: bool) -> None:
    """Say so where an encoder was pre-trained against another adversary than it is fine-tuned against."""
    before, now = ball_of(pretrained.get("method")), ball_of(to_json(method))
    if before is not None and now is not None and before != now and not quiet:
        print(
            f"note: pre-trained at {in_words(before)}, and fine-tuned at {in_words(now)}, which goes with the set "
            "unless --method.attack.ball.eps says otherwise",
            file=sys.stderr,
        )
