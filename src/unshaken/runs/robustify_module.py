"""Robustify a module of the user's own: any network from images in [0, 1] to embeddings."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from unshaken.base.distributed import processes
from unshaken.base.rng import Key
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import digest, read_tensors, write_tensors
from unshaken.nets.dual_bn import merge_route, with_routes
from unshaken.nets.network import Encoder, Network, Normalize, device_of, evaluating
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.robust import robust_recipe
from unshaken.runs.computation import settled
from unshaken.runs.pretrain import train
from unshaken.runs.scores import check_held_out
from unshaken.runs.workspace import Workspace
from unshaken.train.batches import BatchStream
from unshaken.train.image_sets import hold_out, image_identity

WEIGHTS = "encoder.safetensors"


def module_recipe(images: Images, objective: str) -> Pretrain:
    """Return the default recipe for a module on images in the size that they have."""
    channels, side = images.pixels.shape[1], images.pixels.shape[-1]
    backbone = Backbone(channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    recipe = robust_recipe(objective, "module", backbone, DataSource(size=side), images=len(images))
    return replace(recipe, data=DataSource(images.name, size=side))


def robustify_module(
    module: nn.Module, images: Images, recipe: Pretrain, workspace: Workspace = Workspace()
) -> nn.Module:
    """Train a copy of a module, and return it in eval mode; the module itself stays as it is.

    module  from images in [0, 1] (N C H W) to embeddings (N D), with its normalisation inside
    images  images without labels, in the size that the module reads

    The run's folder has the weights by the module's own names in encoder.safetensors. The same call with the same
    weights and images resumes the run, or reads its result.
    """
    check_held_out(recipe.keep, recipe.holdout)
    if recipe.extra or recipe.method.labels:
        raise ValueError(
            "a module of your own learns from the images that you give, without labels: join other images "
            "to them instead of extra, and take a method without labels"
        )
    workspace.runtime.join()
    features = _features(module, images)
    channels = images.pixels.shape[1]
    plain = Encoder(Normalize((0.0,) * channels, (1.0,) * channels), copy.deepcopy(module).cpu(), features)
    data = {"images": image_identity(images), "module": digest(module)}
    result = copy.deepcopy(module)
    images, held = hold_out(images, recipe.holdout)
    workspace = settled(workspace, workspace.folder(f"{recipe.name}-module", recipe), lambda: None)
    with workspace.open(f"{recipe.name}-module", recipe, data) as run:
        if not run.finished(WEIGHTS):
            fabric = run.compute(workspace.runtime)
            key = Key(recipe.seed) / "pretrain"
            batches = BatchStream(images, recipe.views, recipe.strength, recipe.batch_size, recipe.epochs, key)
            net = Network(copy.deepcopy(plain), recipe.head.build(features, ()))
            net = with_routes(net, recipe.method.routes)
            net.teacher = Network(plain.eval(), nn.Identity())
            kept = train(net, recipe, batches, held if recipe.holdout else images, run, fabric, workspace)
            trained = merge_route(net.encoder, "shared").backbone
            state = trained.state_dict()
            processes().first(lambda: write_tensors(run.path / WEIGHTS, state, {"kind": "module"}))
            run.finish(net, workspace.runtime.world(fabric.device), kept)
        tensors, _ = read_tensors(run.path / WEIGHTS)
    result.load_state_dict({name: tensors[name] for name in result.state_dict()})
    return result.eval()


@torch.no_grad()
def _features(module: nn.Module, images: Images) -> int:
    """Return the width of a module's embedding. ValueError if it returns anything else."""
    with evaluating(module):
        device = device_of(module)
        z = module(images.floats(slice(0, 2)).to(device))
    if not isinstance(z, torch.Tensor) or z.ndim != 2 or len(z) != min(2, len(images)):
        shape = tuple(z.shape) if isinstance(z, torch.Tensor) else type(z).__name__
        raise ValueError(f"an encoder returns one embedding for each image, (N, D), and this module returns {shape}")
    return z.shape[1]
