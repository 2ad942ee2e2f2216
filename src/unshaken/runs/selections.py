"""The selections of a run: read from its files, together with its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unshaken.base.json_files import read_json
from unshaken.base.json_shapes import Or, Whole
from unshaken.data.images import Images
from unshaken.data.source import source_of
from unshaken.nets.checkpoint import read_tensors
from unshaken.train.coreset_training import SELECTION, read_selection
from unshaken.train.image_sets import hold_out, image_identity

RECIPE_FILE = {
    "recipe": {
        "data": {},
        "split": str,
        "backbone": {"image_size": Whole(1)},
        "holdout?": Whole(0),
        "coreset?": Or(({"warmup": Whole(0)}, None)),
    },
    "data": {"images": {}},
}
"""The shape of recipe.json of a pre-training run."""
Picked = tuple[int, tuple[int, ...], float]
"""The epoch before which a selection was made, the images in the order of selection, and its seconds."""


def selections_in(run: Path) -> tuple[dict[Path, Picked], list[int], Images]:
    """Return the selections by file, in time order, the indices of their candidates, and all images.

    ValueError if there are none, or if the images are not those that the run was trained on.
    """
    if not (run / "recipe.json").exists():
        raise ValueError(f"{run} is not a run: it has no recipe.json")
    saved = read_json(run / "recipe.json", RECIPE_FILE)
    files = sorted(run.glob("coreset-*.safetensors"))
    if not files:
        coreset = saved["recipe"].get("coreset")
        why = f"the first is due before epoch {coreset['warmup']}" if coreset else "its recipe has no coreset"
        raise ValueError(f"there is no selection in {run}: {why}")
    images = _images(saved, run)
    found: dict[Path, Picked] = {}
    holdout: list[int] = []
    for file in files:
        tensors, about = read_tensors(file, SELECTION)
        found[file] = (about["epoch"], tuple(read_selection(file, len(images)).tolist()), about["seconds"])
        holdout = tensors["held"].tolist()
    return found, sorted({*range(len(images))} - {*holdout}), images


def _images(saved: dict, run: Path) -> Images:
    recipe = saved["recipe"]
    source = source_of(recipe["data"], run)
    images = replace(source, size=source.size or recipe["backbone"]["image_size"]).load(recipe["split"])
    images = hold_out(images, recipe.get("holdout", 0))[0]
    if image_identity(images) != saved["data"]["images"]:
        raise ValueError(
            f"{run} was trained on {saved['data']['images']}, but now there is {image_identity(images)}: put the "
            "former images back"
        )
    return images
