"""`unshaken embed` and `unshaken predict`: features or predictions of all images of a set, in one table"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unshaken.base.amounts import amount
from unshaken.base.ranges import Count, ranged
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.options import parse, subject
from unshaken.runs import embed as runs


@dataclass(frozen=True)
@ranged
class EmbedOptions:
    """Write a model's output for each image of a set into one table, with the images' file names.

    Equal models and images give equal files. The file appears when it is complete.
    """

    data: DataSource
    """Data set or folder of images: all images of your own set, or the test split of a standard one."""
    out: Path | None = None
    """File to write, which ends in .parquet, .csv or .npy. .npy holds numbers alone; the names are in NAME.npy.txt."""
    split: str | None = None
    """Only this split, train or test."""
    route: str | None = None
    """Batch-norm route that images take, adv or clean. By default adv, if the network has it."""
    batch_size: Count = 256
    """Images in a forward pass."""
    runtime: Runtime = Runtime()
    """Device."""


def embed(args: list[str]) -> None:
    what = "a pre-training run's folder, an encoder file, or OWNER/NAME on the Hub"
    name, options = _options(args, "embed", "ENCODER", what)
    found = runs.embed(name, options.data, options.out, route=options.route, **_how(options))
    print(f"{options.out}  {found.values.shape[0]:,} images, {found.values.shape[1]:,} features each")


def predict(args: list[str]) -> None:
    what = "a fine-tuning run's folder, a classifier file, or OWNER/NAME on the Hub"
    name, options = _options(args, "predict", "CLASSIFIER", what)
    if options.route:
        raise ValueError("a classifier has one route, the one it was fine-tuned on: leave --route out")
    found = runs.predict(name, options.data, options.out, **_how(options))
    print(f"{options.out}  {amount(found.values.shape[0], 'image')}, {amount(len(found.names), 'class', 'classes')}")


def _how(options: EmbedOptions) -> dict:
    return {"split": options.split, "batch_size": options.batch_size, "runtime": options.runtime}


def _options(args: list[str], verb: str, noun: str, what: str) -> tuple[str, EmbedOptions]:
    """Return the model's name and the options. ValueError if there are no images, or no file to write."""
    name, rest = subject(args, verb, noun, what, EmbedOptions(DataSource("digits")))
    options = parse(EmbedOptions(DataSource("")), rest, f"unshaken {verb} {name}")
    if not options.data.name:
        raise ValueError(f"`unshaken {verb}` needs images: --data FOLDER")
    if options.out is None:
        raise ValueError(f"`unshaken {verb}` needs a file to write: --out FILE.parquet, .csv or .npy")
    return name, options
