"""LP-AFF: cluster the features, train a linear probe, then train everything by TRADES."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from unshaken.base.distributed import processes
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.serialize import to_json
from unshaken.data.images import Images
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.base import Step
from unshaken.nets.checkpoint import read_tensors, save_encoder, write_tensors
from unshaken.nets.dual_bn import routes_of
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network
from unshaken.recipes.lp_aff import LPAFF, Stage
from unshaken.runs.computation import settled
from unshaken.runs.encoder import PretrainedEncoder
from unshaken.runs.workspace import Workspace
from unshaken.train.batches import BatchStream
from unshaken.train.image_sets import image_identity, load_images, slug
from unshaken.train.loop import fit
from unshaken.train.run_dir import Run
from unshaken.train.training_images import pretrained_on


def pretrain_lp_aff(recipe: LPAFF, encoder: PretrainedEncoder, workspace: Workspace) -> Path:
    """Run or resume all stages. Returns the run's folder, with encoder.safetensors.

    Each finished stage is saved: the labels in pseudo-labels.safetensors, the probe in a run within this run.
    """
    us = processes()
    images = us.in_turn(lambda: load_images(recipe.data, recipe.split, encoder.backbone))
    data = {"images": us.first(lambda: image_identity(images)), "teacher": encoder.identity}
    name = f"{recipe.name}-{slug(recipe.data)}"
    workspace = settled(workspace, workspace.folder(name, recipe), lambda: None)
    with workspace.open(name, recipe, data) as run:
        us.first(lambda: pretrained_on(run.path, [images], [encoder.seen]))
        if run.finished("encoder.safetensors"):
            return run.path
        fabric = run.compute(workspace.runtime)
        images = images.to(fabric.device)
        file, key = run.path / "pseudo-labels.safetensors", Key(recipe.seed) / "clusters"
        label = us.in_turn(lambda: encoder.pseudo_labels(file, images, (recipe.clusters,), key))[:, 0]
        label = label.to(fabric.device)

        probe = Network(encoder.adversarial_route(), zero_classifier(encoder.encoder.features, recipe.clusters))
        train_probe(recipe, probe, images, label, run, workspace, fabric)
        dual = recipe.dual and "adv" in routes_of(encoder.encoder)
        net = Network(encoder.encoder if dual else encoder.adversarial_route(), probe.head)
        train_stage(recipe, "tune", net, images, label, run, workspace, fabric)

        origin = {"recipe": to_json(recipe), "data": run.data, "teacher": encoder.metadata["pretrain"]}
        file = run.path / "encoder.safetensors"
        us.first(lambda: save_encoder(file, net.encoder, encoder.backbone, {"pretrain": origin}))
        us.first(lambda: write_fingerprint(run.path))
        run.finish(net, workspace.runtime.world(fabric.device))
        return run.path


def train_probe(
    recipe: LPAFF, probe: Network, images: Images, label: Tensor, run: Run, workspace: Workspace, fabric: Any
) -> None:
    """Train the linear probe in a run within this run, or read its head if it is finished."""
    with Run.open(run.path, "probe", recipe.probe, run.data) as first:
        first.note, first.worlds, first.same_world = run.note, [*run.worlds], run.same_world
        file = first.path / "head.safetensors"
        if not first.finished(file.name):
            train_stage(recipe, "probe", probe, images, label, first, workspace, fabric)
            processes().first(lambda: write_tensors(file, probe.head.state_dict(), {"kind": "head"}))
            first.finish(probe, workspace.runtime.world(fabric.device))
        probe.head.load_state_dict(read_tensors(file)[0])


def train_stage(
    recipe: LPAFF,
    name: str,
    net: Network,
    images: Images,
    label: Tensor,
    run: Run,
    workspace: Workspace,
    fabric: Any,
) -> None:
    """Train one stage, "probe" or "tune", on the pseudo-labels."""
    stage: Stage = getattr(recipe, name)
    workspace.runtime.prepare(net.to(fabric.device))
    key = Key(recipe.seed) / name
    batches = BatchStream(images, recipe.views, Constant(1.0), stage.batch_size, stage.epochs, key, label)
    fit(Step(stage.method, net), batches, stage.optimizer, stage.lr, workspace.execution(run, fabric))
