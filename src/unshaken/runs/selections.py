"""What the selections of a run picked: read from its files, with the images from where the run had them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unshaken.base.json_files import read_json
from unshaken.base.json_shapes import Or, Whole
from unshaken.data.images import Images
from unshaken.data.source import source_of
from unshaken.nets.checkpoint import read_tensors
from unshaken.train.coreset_training import SELECTION, read_selection
from unshaken.train.image_sets import image_identity

RECIPE_FILE = {
    "recipe": {
        "data": {},
        "split": str,
        "backbone": {"image_size": Whole(1)},
        "coreset?": Or(({"warmup": Whole(0)}, None)),
    },
    "data": {"images": {}},
}
"""What recipe.json says of a run of pre-training."""
Picked = tuple[int, tuple[int, ...], float]
"""The epoch before which a selection was made, the images in the order in which they were picked, the seconds taken."""


def selections_in(run: Path) -> tuple[dict[Path, Picked], list[int], Images]:
    """The selections by their files, in time, the candidates that they had, and the whole set of images.

    ValueError if there are none, or if the images are not those that the run met.
    """
    if not (run / "recipe.json").exists():
        raise ValueError(f"{run} is not a run: it has no recipe.json")
    begun = read_json(run / "recipe.json", RECIPE_FILE)
    files = sorted(run.glob("coreset-*.safetensors"))
    if not files:
        coreset = begun["recipe"].get("coreset")
        why = f"the first is due before epoch {coreset['warmup']}" if coreset else "its recipe has no coreset"
        raise ValueError(f"there is no selection in {run}: {why}")
    images = _images(begun, run)
    found: dict[Path, Picked] = {}
    held: list[int] = []
    for file in files:
        tensors, about = read_tensors(file, SELECTION)
        found[file] = (about["epoch"], tuple(read_selection(file, len(images)).tolist()), about["seconds"])
        held = tensors["held"].tolist()
    return found, sorted({*range(len(images))} - {*held}), images


def _images(begun: dict, run: Path) -> Images:
    recipe = begun["recipe"]
    source = source_of(recipe["data"], run)
    images = replace(source, size=source.size or recipe["backbone"]["image_size"]).load(recipe["split"])
    if image_identity(images) != begun["data"]["images"]:
        raise ValueError(
            f"{run} was trained on {begun['data']['images']}, but now there is {image_identity(images)}: put back what was there"
        )
    return images
