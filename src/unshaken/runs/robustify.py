"""Robustify: make a pre-trained encoder robust without labels, export it in its own form, and say what changed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from unshaken.attacks.ball import ball_of, in_words
from unshaken.attacks.pgd import PGD
from unshaken.base.distributed import processes
from unshaken.base.json_files import write_json, write_text
from unshaken.base.python_words import in_python
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.data.images import Images
from unshaken.data.source import STANDARD, DataSource
from unshaken.evaluation.drift_under_attack import drift_under_attack, fidelity
from unshaken.evaluation.embedder import embedder
from unshaken.evaluation.linear_probe import features_of
from unshaken.evaluation.protocol import Evaluation
from unshaken.interop.encoder_words import WEIGHTS, locate
from unshaken.interop.import_options import ImportOptions
from unshaken.interop.imported_files import import_file, import_timm
from unshaken.interop.load import load_model
from unshaken.interop.same_keys import write_same_keys
from unshaken.layouts.foreign import file_format
from unshaken.layouts.original_file import note, origin_of, write_original
from unshaken.nets.checkpoint import is_own
from unshaken.nets.dual_bn import single_route
from unshaken.nets.timm_nets import torchvision_file
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.robust import OBJECTIVES, robust_recipe
from unshaken.report.robustness import Robustness, page
from unshaken.runs.encoder import PretrainedEncoder, encoder_file
from unshaken.runs.evaluate import evaluate
from unshaken.runs.pretrain import ENCODER, pretrain
from unshaken.runs.probe import probe
from unshaken.runs.robustify_module import module_recipe, robustify_module
from unshaken.runs.workspace import Workspace
from unshaken.train.image_sets import image_identity, load_images

NAMES = "timm/NAME, torchvision/NAME, hf/OWNER/NAME, open_clip/OWNER/NAME, a checkpoint file or a run"
"""Names that an encoder can have."""
SUMMARY, CARD = "robustness.json", "README.md"
GALLERY, ATTACKED = 1000, 128
"""Images in the gallery of the label-free measure, and how many of them are attacked."""


@dataclass(frozen=True)
class Original:
    """An encoder to make robust: its file in this library's form, and the file of somebody else that it came from."""

    encoder: Path
    file: Path | None = None
    options: ImportOptions = ImportOptions()


def original_of(name: str | Path, workspace: Workspace, options: ImportOptions = ImportOptions()) -> Original:
    """Find an encoder by its name on a hub, a file or folder, or a run; one of other libraries is imported.

    name     timm/NAME, torchvision/NAME, hf/OWNER/NAME, open_clip/OWNER/NAME, a checkpoint file, a folder, or a run
    options  facts about a file that it does not say itself
    """
    workspace.runtime.join()
    return processes().in_turn(lambda: _original_of(name, workspace, options))


def _original_of(name: str | Path, workspace: Workspace, options: ImportOptions) -> Original:
    root = Path(workspace.root or "runs").expanduser()
    path = Path(name)
    if not path.exists() and str(name).startswith("timm/"):
        out = options.out or root / str(name).replace("/", "-")
        return Original(import_timm(str(name), replace(options, out=out, classifier=False)).encoder)
    if not path.exists() and str(name).startswith("torchvision/"):
        path = torchvision_file(str(name).partition("/")[2])
    inside = path / "model.safetensors" if path.is_dir() else path
    ours = path.is_dir() and any((path / file).exists() for file in (ENCODER, "recipe.json"))
    if ours or (inside.is_file() and file_format(inside) == "safetensors" and is_own(inside)):
        return Original(encoder_file(path))
    if not path.exists() and str(name).partition("/")[0] not in WEIGHTS:
        raise ValueError(f"there is no encoder {str(name)!r}: name {NAMES}")
    found = locate(str(path))
    stem = found.file.name.split(".")[0] if path.is_file() else found.name.strip("/.").replace("/", "-")
    options = replace(options, out=options.out or root / stem, classifier=False)
    return Original(import_file(path, options).encoder, found.file, options)


def recipe_for(original: Original, data: DataSource, objective: str = OBJECTIVES[0]) -> Pretrain:
    """Return the default recipe for an encoder and a user's images.

    The batch depends on their number. Images that are smaller than the side of a convolutional encoder are not enlarged
    to it: a line on stderr says so.
    """
    model = load_model(original.encoder)
    backbone = model.backbone
    if data.size is None and data.name not in STANDARD and not _has_attention(model.net):
        own = data.usual_side()
        side = max(32, own // 32 * 32) if own else backbone.image_size
        if side < backbone.image_size:
            print(
                f"note: most images have {own} pixels, and are used at {side}; the encoder's own side is "
                f"{backbone.image_size} (--data.size {backbone.image_size})",
                file=sys.stderr,
            )
            data = replace(data, size=side)
    return robust_recipe(objective, str(original.encoder), backbone, data, images=_count(data))


def _count(data: DataSource) -> int:
    """Return about how many training images there are."""
    count = len(data.load("train")) if data.name in STANDARD else data.estimated("train")
    return count if data.limit is None else min(count, data.limit)


def _has_attention(net: nn.Module) -> bool:
    """Return whether a network cuts images into patches that attend to each other, whose number belongs to it."""
    return any("attn" in name or "attention" in name for name, _ in net.named_modules())


@in_python
def robustify(
    encoder: str | Path | nn.Module,
    data: DataSource | Images | str | Path,
    objective: str = OBJECTIVES[0],
    workspace: Workspace = Workspace(),
    *,
    recipe: Pretrain | None = None,
    test: int | None = 256,
) -> Path | nn.Module:
    """Make a pre-trained encoder robust on images without labels. Return the folder of the run, or a robust module.

    encoder    timm/NAME, torchvision/NAME, hf/OWNER/NAME, open_clip/OWNER/NAME, a checkpoint file, a folder of one of
               these libraries, or a run; or a module from images in [0, 1] (N C H W) to embeddings (N D), of which a
               robust copy is returned
    data       images, such as a folder; labels are not used for training
    objective  deacl, fare, profeat or lore
    recipe     every choice of the run, instead of the defaults for the objective
    test       at most this many test images for the accuracies of a linear probe, if the images have labels; None: all

    The folder has encoder.safetensors, the encoder in the form of the file that it came from, with the same names,
    order and dtypes, and robustness.json and README.md, which say what changed. Whether the original's
    embedding space is still there is among it.
    """
    if isinstance(encoder, nn.Module):
        images = data if isinstance(data, Images) else _source(data).load("train")
        return robustify_module(encoder, images, recipe or module_recipe(images, objective), workspace)
    if isinstance(data, Images):
        raise ValueError("the images of an encoder by name or file are named too: a folder, or a DataSource")
    source = _source(data)
    original = original_of(encoder, workspace)
    return robustify_from(original, recipe or recipe_for(original, source, objective), workspace, test)


def _source(data: DataSource | str | Path) -> DataSource:
    return data if isinstance(data, DataSource) else DataSource(str(data))


def robustify_from(original: Original, recipe: Pretrain, workspace: Workspace, test: int | None = 256) -> Path:
    """Train by a recipe, then write the encoder in the form of its original, and the measures before and after."""
    run = pretrain(recipe, workspace)
    return processes().first(lambda: finish(run, original, recipe, workspace, test))


def exported_file(run: Path, original: Original) -> Path:
    """Return the file of a run that is in the form of the original."""
    assert original.file is not None
    return run / f"{original.file.stem}-robust{original.file.suffix}"


def finish(run: Path, original: Original, recipe: Pretrain, workspace: Workspace, test: int | None = 256) -> Path:
    """Write the encoder in the form of its original, and the measures before and after."""
    exported = None
    if original.file is not None:
        imported = PretrainedEncoder.read(original.encoder)
        encoder = single_route(PretrainedEncoder.read(run / ENCODER).encoder, "shared")
        exported = exported_file(run, original)
        if origin_of(imported.metadata) is not None:
            note(write_original(encoder, imported.metadata, original.file, exported))
        else:
            sha256 = imported.metadata["pretrain"].get("file", {}).get("sha256", "")
            write_same_keys(original.file, exported, encoder, original.options, sha256)
    if not (run / SUMMARY).exists():
        found = measure(run, original, recipe, workspace, test)
        ball = found.attack
        facts = {
            "network": f"{recipe.backbone.name}, images of {recipe.data.size or recipe.backbone.image_size} pixels",
            "original": original.file.name if original.file else original.encoder.name,
            "objective": f"{recipe.name}, against {in_words(ball_of(to_json(recipe.method)))}",  # pyright: ignore[reportArgumentType]
            "images": f"{found.images['n']:,} of {found.images['name']}, without labels",
            "measured by": ball,
        }
        if exported:
            facts["in the original's form"] = exported.name
        write_text(run / CARD, page(found, f"{original.encoder.parent.name}, made robust", facts))
        write_json(run / SUMMARY, found.to_json())
        if not workspace.quiet:
            print("\n".join(found.lines()), file=sys.stderr)
    return run


def measure(run: Path, original: Original, recipe: Pretrain, workspace: Workspace, test: int | None) -> Robustness:
    """Measure both encoders: by embeddings of training images without labels, and by linear probes on test images."""
    images = load_images(recipe.data, recipe.split, recipe.backbone)[:GALLERY]
    files = (original.encoder, run / ENCODER)
    pair = tuple(embedder(PretrainedEncoder.read(file).encoder, workspace.runtime, "apart") for file in files)
    ball = ball_of(to_json(recipe.method))
    assert ball is not None
    attacks = {eps: PGD(replace(ball, eps=eps / 255), steps=20) for eps in (ball.eps * 255 / 2, ball.eps * 255)}
    key = Key(recipe.seed) / "drift"
    embedding = {
        f"{eps:g}": tuple(drift_under_attack(one, images, attack, ATTACKED, key).to_json() for one in pair)
        for eps, attack in attacks.items()
    }
    moved = fidelity(*(features_of(one, images) for one in pair))
    accuracy, why = {}, ""
    try:
        probes = [probe(file, recipe.data, workspace.runtime) for file in files]
        probes.append(probe(files[1], recipe.data, workspace.runtime, of=probes[0]))
        for eps, attack in attacks.items():
            how = Evaluation(attack, limit=test)
            accuracy[f"{eps:g}"] = tuple(evaluate(each, evaluation=how, workspace=workspace) for each in probes)
    except ValueError as error:  # no labels, or no test images
        why = str(error)
    identity = image_identity(load_images(recipe.data, recipe.split, recipe.backbone))
    return Robustness(moved, embedding, accuracy, identity, "PGD, 20 steps of ε/4 from a uniform start", why)  # pyright: ignore[reportArgumentType]
