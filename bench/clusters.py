"""Pseudo-labels of `++` on natural images: how many images of a cluster are of its most frequent class.

`python -m bench clusters --data FOLDER --encoder RUN ...`, where FOLDER holds cifar10/ as Parquet, or the original
archive. The clusters are those that DynACL++ trains on: ten by k-means on features of the training images.
Classes are used for this diagnosis alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from bench.evidence import source
from unshaken.base.rng import Key
from unshaken.runs.encoder import PretrainedEncoder, encoder_file

COUNT = 10


def purity(labels: Tensor, classes: Tensor) -> int:
    """Return how many images belong to the most frequent class of their cluster."""
    table = torch.zeros(int(labels.max()) + 1, int(classes.max()) + 1, dtype=torch.long)
    table.index_put_((labels, classes), torch.ones_like(labels), accumulate=True)
    return int(table.amax(1).sum())


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m bench clusters", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with cifar10/ as Parquet, or its archive")
    parser.add_argument("--encoder", type=Path, nargs="+", required=True, help="runs of pre-training")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = source(options.data, Path(folder)).load("train")
        for run in options.encoder:
            encoder, saved = PretrainedEncoder.read(encoder_file(run)), Path(folder, f"{run.name}.safetensors")
            labels = encoder.pseudo_labels(saved, images, (COUNT,), Key(1))[:, 0]
            sizes = torch.bincount(labels, minlength=COUNT)
            pure = purity(labels, torch.as_tensor(images.label))
            print(
                f"{run.parent.name}: {pure:,} of {len(images):,} ({100 * pure / len(images):.1f} %); clusters of "
                f"{int(sizes.min()):,} to {int(sizes.max()):,} images"
            )
