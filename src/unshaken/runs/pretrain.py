"""Pre-training: run a recipe, resume it, or return the finished run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unshaken.attacks.ball import ball_of
from unshaken.base.amounts import amount
from unshaken.base.distributed import processes
from unshaken.base.python_words import in_python
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.interop.fingerprint import write_fingerprint
from unshaken.methods.base import Step
from unshaken.nets.checkpoint import save_encoder
from unshaken.nets.lora import merge_lora, train_branch_only, with_lora
from unshaken.nets.own_nets import remember
from unshaken.nets.shared_bn import use_ghost_batches
from unshaken.recipes import catalog
from unshaken.recipes.datasets import defaults_for
from unshaken.recipes.lp_aff import LPAFF
from unshaken.recipes.own_recipes import is_own_recipe, own_recipe
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.choices import remembered
from unshaken.runs.computation import settled, training_of
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.runs.first_network import first_network
from unshaken.runs.lp_aff import pretrain_lp_aff
from unshaken.runs.scores import check_held_out, chosen_weights, scored, stillness
from unshaken.runs.workspace import Workspace
from unshaken.train.averaging import AveragedWeights
from unshaken.train.batch_statistics import reestimate_clean, take_weights
from unshaken.train.batches import BatchStream
from unshaken.train.best_weights import KeptWeights
from unshaken.train.coreset_training import fit_on_coresets
from unshaken.train.gauges import Gauges
from unshaken.train.guard import GuardState
from unshaken.train.image_sets import check_images_fit, hold_out, image_identity, slug
from unshaken.train.loop import fit
from unshaken.train.mixture import joined, load_sets, load_training, mixture_of
from unshaken.train.run_dir import Run
from unshaken.train.training_images import pretrained_on

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from unshaken.nets.network import Network

ENCODER = "encoder.safetensors"


@in_python
def pretrain(
    recipe: Pretrain | LPAFF | str,
    workspace: Workspace = Workspace(),
    *,
    data: Any = None,
    observers: Iterable[Any] = (),
    hours: float = 1.0,
) -> Path:
    """Run a pre-training recipe, resume it, or return the finished run: its folder has encoder.safetensors.

    recipe     a recipe, or the name of one: acl/cifar10, or mine.py:recipe, one of your own
    data       training images in place of the recipe's: a `DataSource`, `Images`, or anything that `Images.of` reads
    observers  objects that are told what happens, with some of the methods of `train.observers.Observer`
    hours      with a named recipe and images of your own, epochs are chosen that take about so long on this machine,
               and a batch that suits their number. A recipe that is a value, and one of your own, stays as it is

    Equal recipes on equal images give equal bits, and the run's folder is named by the recipe's hash. Processes that
    torchrun or srun has started share each batch.
    Raises ValueError for a user's mistake, and Interrupted after a signal, once a checkpoint is written.
    """
    workspace = workspace.observed_by(observers)
    by_name = isinstance(recipe, str) and not is_own_recipe(recipe)
    workspace.runtime.join()
    if isinstance(recipe, str):
        recipe = catalog.recipe(recipe) if by_name else own_recipe(recipe)
    if data is not None:
        source = DataSource.of(data)
        recipe = replace(recipe, data=source, split="train" if source.given else recipe.split)
    if by_name and isinstance(recipe, Pretrain):
        root = Path(workspace.root or "runs").expanduser()
        known = (recipe, (), workspace.runtime, root, hours, workspace.quiet)
        recipe, runtime = processes().in_turn(lambda: remembered(*known))
        workspace = replace(workspace, runtime=runtime)
    teacher = resolve_encoder(recipe.teacher, recipe, workspace, takes_weights(recipe)) if recipe.teacher else None
    if isinstance(recipe, LPAFF):
        assert teacher is not None  # LP-AFF always has one
        return pretrain_lp_aff(recipe, teacher, workspace)
    start = teacher if recipe.start == "teacher" else None
    if recipe.start and not start:
        start = resolve_encoder(recipe.start, recipe, workspace, same_network=True)
    return pretrain_encoder(recipe, teacher, start, workspace)


def takes_weights(recipe: Pretrain | LPAFF) -> bool:
    """Return whether a recipe copies its teacher's weights, so that both need the same network."""
    return isinstance(recipe, Pretrain) and (recipe.method.teacher == "frozen" or recipe.start == "teacher")


def resolve_encoder(
    name: str, like: Pretrain | LPAFF, workspace: Workspace, same_network: bool = False
) -> PretrainedEncoder:
    """Return the encoder of a run, of a file, or of a recipe, which is pre-trained first.

    like          the recipe that needs the encoder: the other recipe takes its images and its seed
    same_network  take its network too
    """
    if Path(name).exists():
        return PretrainedEncoder.read(encoder_file(Path(name)))
    if name.partition("/")[0] not in catalog.RECIPES:
        raise ValueError(f"{name!r} is neither a run, nor an encoder file, nor a recipe such as simclr/cifar10")
    needed = replace(catalog.recipe(name), data=like.data, split=like.split, seed=like.seed)
    if isinstance(needed, Pretrain) and isinstance(like, Pretrain):
        needed = replace(needed, extra=like.extra)
    if same_network and isinstance(needed, Pretrain) and isinstance(like, Pretrain):
        needed = replace(needed, backbone=like.backbone)
    if not workspace.quiet:
        epochs = getattr(needed, "epochs", None)
        length = "" if epochs is None else f", {amount(epochs, 'epoch')}"
        print(
            f"{like.name} starts from {name}{length}: it is looked for under {workspace.root or 'runs'}, and trained "
            "there first if it is not finished; name a run or a file instead to use that encoder",
            file=sys.stderr,
        )
    return PretrainedEncoder.read(pretrain(needed, replace(workspace, profile=0)) / ENCODER)


def pretrain_encoder(
    recipe: Pretrain, teacher: PretrainedEncoder | None, start: PretrainedEncoder | None, workspace: Workspace
) -> Path:
    """Train an encoder, given its teacher and its initial weights."""
    recipe = with_network_of(recipe, start or (teacher if takes_weights(recipe) else None))
    us = processes()
    sets = us.in_turn(lambda: load_sets(recipe.data, recipe.split, recipe.backbone, recipe.extra))
    check_held_out(recipe.keep, recipe.holdout)
    sets[0], held = hold_out(sets[0], recipe.holdout)
    images = joined(sets)
    roles = {"teacher": teacher, "start": start}
    identities = us.first(lambda: [image_identity(each) for each in sets])
    data = {"images": identities[0]} | ({"extra": identities[1:]} if recipe.extra else {})
    data |= {role: one.identity for role, one in roles.items() if one}
    name, shape = f"{recipe.name}-{slug(recipe.data)}", images.pixels.shape[1:]
    count = len(mixture_of(sets, recipe.extra) or images)
    workspace = settled(workspace, workspace.folder(name, recipe), lambda: training_of(recipe, count, shape))
    with workspace.open(name, recipe, data) as run:
        data = run.data
        if recipe.backbone.own:
            us.first(lambda: remember(recipe.backbone.name))
        used = [images, held] if recipe.keep else [images]  # what weights are chosen by is used, too
        us.first(lambda: pretrained_on(run.path, used, [one.seen for one in (teacher, start) if one]))
        if run.finished(ENCODER):
            return run.path
        fabric = run.compute(workspace.runtime)
        images = images.to(fabric.device)
        label, classes = labels_of(recipe, images, teacher, run.path)
        key = Key(recipe.seed) / "pretrain"
        batches = BatchStream(
            images, recipe.views, recipe.strength, recipe.batch_size, recipe.epochs, key, label,
            mixture=mixture_of(sets, recipe.extra),
        )  # fmt: skip
        net = first_network(recipe, classes, teacher, start)
        kept = train(net, recipe, batches, held if recipe.holdout else images, run, fabric, workspace)
        origin = {"recipe": to_json(recipe), "data": data}
        origin |= {"teacher": teacher.metadata["pretrain"]} if teacher else {}
        trained = net.teacher if recipe.method.teacher == "momentum" else net
        us.first(lambda: save_encoder(run.path / ENCODER, trained.encoder, recipe.backbone, {"pretrain": origin}))
        us.first(lambda: write_fingerprint(run.path))
        run.finish(net, workspace.runtime.world(fabric.device), kept)
        return run.path


def train(
    net: Network,
    recipe: Pretrain,
    batches: BatchStream,
    judged: Images,
    run: Run,
    fabric: Fabric,
    workspace: Workspace,
) -> dict[str, Any] | None:
    """Train a network by a recipe, and leave in it the weights that the run returns.

    judged  images for the gauges, and for the choice of the weights where the recipe has one

    Return the record of the weights that were chosen, or None.
    """
    key = Key(recipe.seed) / "pretrain"
    if recipe.lora:
        train_branch_only(with_lora(net.encoder, Key(recipe.seed) / "lora", recipe.lora))
    channels, side = batches.images.pixels.shape[1:3]
    recipe.approximations.fit(net.encoder, channels, side, recipe.epochs)
    net.to(fabric.device)
    workspace.runtime.prepare(net)
    batches, judged = batches.to(fabric.device), judged.to(fabric.device)
    batches = replace(batches, side=recipe.approximations.side, replays=recipe.approximations.replays)
    step = equipped(Step(recipe.method, net), recipe, batches)
    ball = ball_of(to_json(recipe.method)) or defaults_for(recipe.data).ball
    gauges = Gauges.of(workspace.gauges, judged, recipe.views, ball)
    if recipe.keep:
        judged = scored(judged, recipe.keep, key)
        score = stillness(judged, recipe.keep, ball, key / "keep", recipe.method.teacher == "momentum")
        step.kept = KeptWeights(recipe.keep, step, recipe.epochs, score)
    how = (recipe.optimizer, recipe.lr, replace(workspace.execution(run, fabric), gauges=gauges))
    if recipe.coreset is None:
        fit(step, batches, *how)
    else:
        fit_on_coresets(recipe.coreset, step, batches, *how)
    finish_weights(step, recipe, batches)
    return chosen_weights(step, len(judged), "a displacement under attack of", workspace.quiet)


def equipped(step: Step, recipe: Pretrain, batches: BatchStream) -> Step:
    """Give a step what the recipe asks for beside a method: an average, a guard, ghost batches, fewer attacks, ..."""
    use_ghost_batches(step.net, recipe.ghost_batch)
    if recipe.batch_norm == "reestimate":
        reestimate_clean(step.net.encoder, batches)
    step.frozen_norms, step.clip = recipe.batch_norm != "train", recipe.clip
    step.policy = recipe.approximations.policy(recipe.method.updates_per_batch)
    batch_count = len(batches) * recipe.epochs
    if recipe.averaging:
        step.average = AveragedWeights(recipe.averaging, step.net, batch_count * recipe.method.updates_per_batch)
    if recipe.guard:
        step.guard = GuardState(recipe.guard, recipe.method.score, step.net, batch_count)
    return step.train()


def finish_weights(step: Step, recipe: Pretrain, batches: BatchStream) -> None:
    """Write the best or the averaged weights into the network, if it has either, and add a low-rank branch to them."""
    take_weights(step, batches)
    if recipe.lora:
        merge_lora(step.net.encoder)


def with_network_of(recipe: Pretrain, encoder: PretrainedEncoder | None) -> Pretrain:
    """Return the recipe with the network of the encoder whose weights it copies. It is part of the run's name."""
    if encoder is None or encoder.backbone == recipe.backbone:
        return recipe
    print(f"{recipe.name}: the network is the one of the encoder it starts from, {encoder.backbone}", file=sys.stderr)
    return replace(recipe, backbone=encoder.backbone)


def labels_of(
    recipe: Pretrain, images: Images, teacher: PretrainedEncoder | None, folder: Path
) -> tuple[Tensor | None, tuple[int, ...]]:
    """Return the labels that the method learns from, (N) or (N, L), and the number of classes of each labelling."""
    if recipe.method.labels == "clusters":
        assert teacher is not None
        if (
            teacher.backbone.image_size != recipe.backbone.image_size
        ):  # the teacher takes the same images at its own size
            if recipe.holdout:
                raise ValueError("with holdout, a teacher of clusters reads images of the size that the encoder reads")
            again, _ = load_training(recipe.data, recipe.split, teacher.backbone, recipe.extra)
            images = again.to(images.device)
        check_images_fit(images, teacher.backbone)
        file, key = folder / "pseudo-labels.safetensors", Key(recipe.seed) / "clusters"
        label = processes().in_turn(lambda: teacher.pseudo_labels(file, images, recipe.clusters, key))
        return label, recipe.clusters
    if recipe.method.labels == "":
        return None, ()
    if images.label is None:
        raise ValueError(f"{recipe.name} learns from labels, and {recipe.data.name} ({recipe.split}) has none")
    return images.label, (len(images.names),)
