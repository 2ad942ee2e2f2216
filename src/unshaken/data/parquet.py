"""Parquet files in the layout of Hugging Face image sets: one file, or a folder of shards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unshaken.base.files import parsed
from unshaken.base.shapes import Items, Or
from unshaken.data.cache import stamp
from unshaken.data.decode import Encoded
from unshaken.data.listing import TEST_PARTS, Listing, fifths

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

IMAGE = ("image", "img")
LABEL = ("label", "fine_label")
"""Column names; of several the first counts."""

CHUNK = 256


@dataclass(frozen=True, eq=False)
class Rows(Listing):
    """Rows of shards, counted through all of them."""

    shards: tuple[Path, ...]
    rows: np.ndarray
    label: np.ndarray | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, rows: np.ndarray) -> Rows:
        return replace(self, rows=self.rows[rows], label=None if self.label is None else self.label[rows])

    def stamp(self) -> object:
        return stamp(self.shards), self.rows.tolist()

    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        """Reads no further than the last row."""
        start = 0
        for shard in self.shards:
            with _opened(shard) as file:
                stop = start + file.metadata.num_rows
                inside = self.rows[(self.rows >= start) & (self.rows < stop)] - start
                yield from _contents(file, shard.name, inside)
                start = stop


def _contents(file: ParquetFile, name: str, rows: np.ndarray) -> Iterator[tuple[str, Encoded]]:
    if not len(rows):
        return
    first = 0
    for batch in file.iter_batches(CHUNK, columns=[_column(file, IMAGE)]):
        here = rows[(rows >= first) & (rows < first + len(batch))]
        for row, value in zip(here, batch.column(0).take(here - first).to_pylist(), strict=True):
            yield f"row {row} of {name}", value["bytes"] if isinstance(value, dict) else value
        first += len(batch)
        if first > rows[-1]:
            return


def parquet(path: Path) -> dict[str, Listing]:
    """The splits of a file, or of a folder's shards `train-*` and `test-*` (or `validation-*`), in row order.

    A file by itself, or shards without a test part, are split: every fifth row of each class is for testing.
    """
    parts = _parts(path)
    names, labels = _classes(next(iter(parts.values()))[0], {part: _labels(shards) for part, shards in parts.items()})
    listings: dict[str, Listing] = {}
    for part, shards in parts.items():
        label = labels[part]
        listings[part] = Rows(shards, np.arange(_count(shards)), label, () if label is None else names)
    return listings if "test" in listings else fifths(listings["train"], path)


def _parts(path: Path) -> dict[str, tuple[Path, ...]]:
    """The shards of each part, by name; without a test part, all shards are one."""
    if path.is_file():
        return {"train": (path,)}
    shards = sorted(path.glob("*.parquet"))
    _check_complete(shards)
    for part in TEST_PARTS:
        train, test = (tuple(s for s in shards if re.match(rf"{name}\b", s.name)) for name in ("train", part))
        if test:
            return {"train": train, "test": test} if train else {"test": test}
    return {"train": tuple(shards)}


def _check_complete(shards: list[Path]) -> None:
    present = {shard.name for shard in shards}
    for shard in shards:
        if match := re.fullmatch(r"(.+)-(\d+)-of-(\d+)\.parquet", shard.name):
            part, digits, count = match[1], len(match[2]), int(match[3])
            for k in range(count):
                if (name := f"{part}-{k:0{digits}}-of-{match[3]}.parquet") not in present:
                    raise ValueError(
                        f"{shard.parent} lacks {name}, one of {count} shards: fetch it, or rename the others"
                    )


def _count(shards: tuple[Path, ...]) -> int:
    total = 0
    for shard in shards:
        with _opened(shard) as file:
            total += file.metadata.num_rows
    return total


def _labels(shards: tuple[Path, ...]) -> np.ndarray | None:
    """The label column: int64, or text. None without one, or if it says -1 throughout, as unlabelled sets do."""
    columns = []
    for shard in shards:
        with _opened(shard) as file:
            if (name := _column(file, LABEL)) is None:
                return None
            columns.append(file.read([name]).column(0))
    if missing := sum(column.null_count for column in columns):
        raise ValueError(f"{shards[0]}: {missing} rows have no label: remove them, or the column {name!r}")
    label = np.concatenate([column.to_numpy() for column in columns])
    if label.dtype.kind not in "iu":
        return label.astype(str)
    if len(label) and label.max() < 0:
        return None
    if len(label) and label.min() < 0:
        raise ValueError(f"{shards[0]}: {(label < 0).sum()} rows have label -1: remove them, or the column {name!r}")
    return label.astype(np.int64)


def _classes(shard: Path, labels: dict[str, np.ndarray | None]) -> tuple[tuple[str, ...], dict[str, np.ndarray | None]]:
    """Class names, and the labels as indices into them.

    Names are those that the schema declares; else the labels are their own names, in order of all parts together.
    """
    known = [label for label in labels.values() if label is not None]
    if not known:
        return (), labels
    declared = _declared(shard)
    if declared and all(label.dtype == np.int64 for label in known):
        return declared, labels
    values = np.unique(np.concatenate(known))
    index = {part: None if label is None else np.searchsorted(values, label) for part, label in labels.items()}
    return tuple(str(value) for value in values), index


def _declared(shard: Path) -> tuple[str, ...]:
    with _opened(shard) as file:
        text = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        column = _column(file, LABEL)
        names = Or((Items(str), None))
        feature = {f"{column}?": Or(({"names?": names}, None))}
        found = parsed(text, f"{shard}, in its note 'huggingface',", {"info?": {"features?": feature}})
    named = found.get("info", {}).get("features", {}).get(column) or {}
    return tuple(named.get("names") or ())


def _column(file: ParquetFile, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in file.schema_arrow.names), None)


@contextmanager
def _opened(shard: Path) -> Iterator[ParquetFile]:
    """The file, with a column of images in it. What goes wrong while it is open is a ValueError that names it."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{shard}: Parquet needs another package: pip install 'unshaken[data]'") from error
    try:
        with ParquetFile(shard) as file:
            _check_column(file, shard)
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{shard} cannot be read as Parquet: {reason}") from error


def _check_column(file: ParquetFile, shard: Path) -> None:
    import pyarrow as pa

    name = _column(file, IMAGE)
    kind = None if name is None else file.schema_arrow.field(name).type
    if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if kind is None or not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(
            f"{shard} has no column 'image' of encoded images (binary, or a struct with bytes); "
            f"it has {', '.join(file.schema_arrow.names)}"
        )
