"""Features and predictions of a whole image set, as a table: Parquet, CSV or NumPy"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unshaken.base.atomic_files import write_bytes, write_text
from unshaken.base.progress import progress
from unshaken.base.python_words import in_python
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import STANDARD, DataSource
from unshaken.nets.network import device_of
from unshaken.runs.load import HubModel, load

SUFFIXES = (".parquet", ".csv", ".npy")
"""The forms of a table, by the end of the file's name."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of a model for the images of a set, in the set's order.

    files   the file name of each image, or its number where the set has no files
    values  (N, D) float32: features, or one probability for each class
    names   the classes; empty for features
    """

    files: tuple[str, ...]
    values: np.ndarray
    names: tuple[str, ...] = field(default=())

    @property
    def classes(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.names[k] for k in self.values.argmax(axis=1)]

    @property
    def columns(self) -> dict[str, Any]:
        """The table's columns by name: files and features, or files, class, its probability, and all probabilities."""
        if not self.names:
            return {"file": list(self.files), "features": self.values}
        likeliest = self.values.max(axis=1).tolist()
        by_class = {f"p({name})": self.values[:, k].tolist() for k, name in enumerate(self.names)}
        return {"file": list(self.files), "class": self.classes, "probability": likeliest, **by_class}

    def write(self, out: Path) -> Path:
        """Write the table, atomically, in the form that the file's name ends in. Equal outputs are equal bytes."""
        check_suffix(out)
        WRITERS[out.suffix.lower()](self, out)
        return out


@in_python
def embed(
    encoder: str | Path | nn.Module,
    data: Any,
    out: str | Path | None = None,
    *,
    route: str | None = None,
    split: str | None = None,
    batch_size: int = 256,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
) -> Outputs:
    """Return the features of all images of a set, and write them if `out` names a file.

    encoder  a run, a file, OWNER/NAME on the Hub, timm/NAME, or a module from images in [0, 1] to features
    data     a folder of images, the name of a set, or anything that `Images.of` reads
    out      a .parquet, .csv or .npy file; .npy holds the features alone, and the names are in NAME.npy.txt
    route    the batch-norm route of the images; by default the robust one
    split    train or test; by default all images of a user's own set, and the test split of a standard set
    """
    model = encoder if isinstance(encoder, nn.Module) else load(encoder, route)
    if isinstance(model, HubModel) and model.kind == "classifier":
        model = model.features()
    return _outputs(model, data, out, split, batch_size, runtime, quiet, ())


@in_python
def predict(
    classifier: str | Path | HubModel,
    data: Any,
    out: str | Path | None = None,
    *,
    split: str | None = None,
    batch_size: int = 256,
    runtime: Runtime = Runtime(),
    quiet: bool = False,
) -> Outputs:
    """Return a classifier's probabilities for all images of a set, and write them if `out` names a file.

    classifier  a fine-tuning run, a classifier file, or OWNER/NAME on the Hub; the other arguments are those of `embed`
    """
    model = classifier if isinstance(classifier, nn.Module) else load(classifier)
    if not isinstance(model, HubModel) or model.kind != "classifier":
        raise ValueError(
            f"{classifier} is no classifier with named classes: `unshaken embed` gives an encoder's features"
        )
    return _outputs(model, data, out, split, batch_size, runtime, quiet, model.names)


def _outputs(
    model: nn.Module,
    data: Any,
    out: str | Path | None,
    split: str | None,
    batch_size: int,
    runtime: Runtime,
    quiet: bool,
    names: tuple[str, ...],
) -> Outputs:
    if out is not None:
        check_suffix(Path(out))  # before the work
    if batch_size < 1:
        raise ValueError(f"a batch has 1 image or more, not {batch_size}")
    side = model.image_size if isinstance(model, HubModel) else None
    sets = [data] if isinstance(data, Images) else sets_of(DataSource.of(data), split, side)
    for images in sets:
        if isinstance(model, HubModel) and images.pixels.shape[1] != model.channels:
            raise ValueError(
                f"{images.name} has {images.pixels.shape[1]} channel(s), and the model reads {model.channels}"
            )
    device = runtime.open().device
    home = device_of(model)
    values = []
    model.to(device)
    try:
        with progress("images", sum(map(len, sets)), "images", quiet=quiet) as advance:
            for images in sets:
                for at in range(0, len(images), batch_size):
                    found = _answers(model, images.to(device).floats(slice(at, at + batch_size)))
                    values.append((found.softmax(dim=1) if names else found).cpu().numpy())
                    advance(len(found))
    finally:
        model.to(home)
    files = [name for images in sets for name in (images.files or map(str, range(len(images))))]
    outputs = Outputs(tuple(files), np.concatenate(values), names)
    if out is not None:
        outputs.write(Path(out))
    return outputs


@torch.no_grad()
def _answers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return a model's outputs for images, in eval mode. The model's mode is restored."""
    training = model.training
    found = model.eval()(x).float()
    model.train(training)
    if found.ndim != 2:
        raise ValueError(f"the model gives an output of shape {tuple(found.shape[1:])} for an image: it needs one row")
    return found


def sets_of(source: DataSource, split: str | None, side: int | None) -> list[Images]:
    """Return the splits of a set to go through: all of a user's own, or the test split of a standard one."""
    source = replace(source, size=source.size or side)
    if source.given is not None:
        return [source.load("train")]
    if split is not None or source.name in STANDARD:
        return [source.load(split or "test")]
    try:
        return [source.load("all")]
    except ValueError as error:
        if "comes with splits of its own" not in str(error):
            raise
    found = [source.load("train")]
    return [*found, source.load("test")]


def check_suffix(out: Path) -> None:
    """Raise ValueError if a file's name does not say a form, or its form needs a package that is not there."""
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out takes a file that ends in {', '.join(SUFFIXES)}, not {out.name!r}")
    if out.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise ValueError("a .parquet file needs pyarrow: pip install 'unshaken[data]', or write a .csv or .npy file")


def _write_parquet(outputs: Outputs, out: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = outputs.columns
    if "features" in columns:
        flat = pyarrow.array(outputs.values.reshape(-1))
        columns["features"] = pyarrow.FixedSizeListArray.from_arrays(flat, outputs.values.shape[1])
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    write_bytes(out, buffer.getvalue())


def _write_csv(outputs: Outputs, out: Path) -> None:
    columns = outputs.columns
    if (features := columns.pop("features", None)) is not None:
        columns |= {f"f{k}": features[:, k].tolist() for k in range(features.shape[1])}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_text(out, text.getvalue())


def _write_npy(outputs: Outputs, out: Path) -> None:
    """Write the values, and the names of the files beside them, one a line."""
    buffer = io.BytesIO()
    np.save(buffer, outputs.values)
    write_text(out.with_name(f"{out.name}.txt"), "".join(f"{name}\n" for name in outputs.files))
    write_bytes(out, buffer.getvalue())


WRITERS: dict[str, Callable[[Outputs, Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".npy": _write_npy,
}
