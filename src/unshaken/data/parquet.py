"""Parquet files in the layout of Hugging Face image sets: one file, or a folder of shards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unshaken.data.decode import Encoded
from unshaken.data.folder_index import Found, Listing, in_splits
from unshaken.data.folder_tree import Branch, LeftOut, Reason
from unshaken.data.parquet_file import declared_classes, image_column, label_column, opened, reading
from unshaken.data.split_names import TEST_SPLITS, assign_splits, split_meant
from unshaken.storage.cache import stamp

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)", re.IGNORECASE)

CHUNK = 256


@dataclass(frozen=True, eq=False)
class Rows(Listing):
    """Rows of several shards, numbered from the first row of the first shard on."""

    shards: tuple[Path, ...]
    sizes: tuple[int, ...]
    rows: np.ndarray
    label: np.ndarray | None = None
    names: tuple[str, ...] = ()
    reason: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, rows: np.ndarray) -> Rows:
        return replace(self, rows=self.rows[rows], label=None if self.label is None else self.label[rows])

    def called(self, rows: np.ndarray) -> tuple[str, ...]:
        starts = np.cumsum((0, *self.sizes))
        of = np.searchsorted(starts, self.rows[rows], side="right") - 1
        return tuple(
            f"row {row - starts[shard]} of {self.shards[shard].name}"
            for row, shard in zip(self.rows[rows], of, strict=True)
        )

    def stamp(self) -> object:
        return stamp(self.shards), self.rows.tolist()

    def encoded(self) -> Iterator[tuple[str, Encoded]]:
        """Iterate over the images by name and content. Nothing is read beyond the last of the rows."""
        start = 0
        for shard, size in zip(self.shards, self.sizes, strict=True):
            inside = self.rows[(self.rows >= start) & (self.rows < start + size)] - start
            if len(inside):
                with opened(shard) as file, reading(shard):
                    yield from _contents(file, shard.name, inside)
            start += size


def _contents(file: ParquetFile, name: str, rows: np.ndarray) -> Iterator[tuple[str, Encoded]]:
    first = 0
    for batch in file.iter_batches(CHUNK, columns=[image_column(file)]):
        here = rows[(rows >= first) & (rows < first + len(batch))]
        for row, value in zip(here, batch.column(0).take(here - first).to_pylist(), strict=True):
            yield f"row {row} of {name}", value["bytes"] if isinstance(value, dict) else value
        first += len(batch)
        if first > rows[-1]:
            return


def parquet(path: Path, tree: Branch | None = None, left: LeftOut | None = None) -> Found:
    """Read one file, or the shards of a folder in row order.

    The shards of a split are named `train-*`, and `test-*` or `validation-*`, or lie in folders with such names. A
    single file, or shards without a test split, are split by each image's content if they have labels.
    """
    left = LeftOut() if left is None else left
    if tree is None:
        splits, location = {"train": (path,)}, str(path)
    else:
        splits, location = _shards_by_split(path, tree, left)
    listings = {split: _rows(shards) for split, shards in splits.items()}
    called = {split: f"{shards[0].name}{', ...' if len(shards) > 1 else ''}" for split, shards in splits.items()}
    indexed, errors = _with_class_indices(listings, splits)
    found = in_splits(location, indexed, called, left)
    if reason := errors.get(next((split for split in TEST_SPLITS if split in indexed), "")):
        found.errors["test"] = reason
    return found


def _shards_by_split(path: Path, tree: Branch, left: LeftOut) -> tuple[dict[str, tuple[Path, ...]], str]:
    """Return the shards of each split, and the folder that they lie in. Shards that name no split are all "train"."""
    here = tree
    while not here.tables and len(here.folders(tables=True)) == 1:
        here = next(iter(here.folders(tables=True).values()))
    location = str(path / here.path)
    folders = {name: branch.files(tables=True) for name, branch in here.folders(tables=True).items()}
    if here.tables and folders:
        raise ValueError(
            f"{location} has Parquet files, and folders with Parquet files ({', '.join(folders)}): name one "
            "of the folders"
        )
    groups = _groups(here.tables) if here.tables else folders
    named = {name: split_meant(name) for name in groups}
    if folders and not any(named.values()):
        raise ValueError(
            f"{location} has folders of Parquet files whose names mean no split ({', '.join(folders)}): name "
            "one of them"
        )
    found = assign_splits(groups, location, classes=False)
    if not found:
        found = {"train": ""}
        groups = {"": [name for names in groups.values() for name in names]}
    for name in set(groups) - set(found.values()):
        left.note(Reason.TABLE, name, len(groups[name]))
    shards = {}
    for split, name in found.items():
        inside = groups[name] if not here.tables else [str(Path(here.path, file)) for file in groups[name]]
        shards[split] = tuple(path / file for file in sorted(inside))
        _check_complete(shards[split])
    return shards, location


def _groups(files: list[str]) -> dict[str, list[str]]:
    """Group files by their names without shard numbers: train-00000-of-00003 and train-00001-of-00003 are "train"."""
    groups: dict[str, list[str]] = {}
    for file in files:
        stem = Path(file).stem
        split = split_meant(SHARD.sub(r"\1", stem))
        without_number = re.sub(r"[-_. ]*\d+$", "", SHARD.sub(r"\1", stem)) or stem
        groups.setdefault(without_number if split else stem, []).append(file)
    return groups


def _check_complete(shards: tuple[Path, ...]) -> None:
    present = {shard.name for shard in shards}
    for shard in shards:
        if match := SHARD.fullmatch(shard.stem):
            prefix, digits, count = match[1], len(match[2]), int(match[3])
            if count > 10 * len(shards) + 1000:
                raise ValueError(f"{shard} says that it is one of {count:,} shards, but only {len(shards)} are there")
            for k in range(count):
                if (name := f"{prefix}-{k:0{digits}}-of-{match[3]}{shard.suffix}") not in present:
                    raise ValueError(
                        f"{shard.parent} lacks {name}, one of {count} shards: download it, or rename the others"
                    )


def _rows(shards: tuple[Path, ...]) -> Rows:
    """Read the rows of a split and its labels as they are stored: whole numbers or texts, and declared class names."""
    sizes, columns, declared = [], [], []
    for shard in shards:
        with opened(shard) as file, reading(shard):
            sizes.append(file.metadata.num_rows)
            column = label_column(file)
            columns.append(None if column is None else file.read([column]).column(0))
            declared.append(() if column is None else declared_classes(file, column, shard))
    with_labels = [column is not None for column in columns]
    if any(with_labels) and not all(with_labels):
        raise ValueError(
            f"{shards[with_labels.index(False)]} has no column of labels, but {shards[with_labels.index(True)].name} "
            "has one, so they are not shards of the same set"
        )
    rows = Rows(shards, tuple(sizes), np.arange(sum(sizes)))
    if not all(with_labels):
        return rows
    if odd := next((shard for shard, names in zip(shards, declared, strict=True) if names != declared[0]), None):
        raise ValueError(f"{odd} declares other classes than {shards[0].name}, so they are not shards of the same set")
    label = _labels(shards, columns)
    return rows if label is None else replace(rows, label=label, names=declared[0])


def _labels(shards: tuple[Path, ...], columns: list[Any]) -> np.ndarray | None:
    """Join the label columns to int64 or text. None if all labels are -1, which marks a set without labels."""
    for shard, column in zip(shards, columns, strict=True):
        if column.null_count:
            raise ValueError(f"{shard}: {column.null_count} rows have no label: remove these rows, or the column")
    arrays = [column.to_numpy() for column in columns]
    kinds = {array.dtype.kind for array in arrays if len(array)}
    if kinds <= set("iu"):
        label = np.concatenate(arrays).astype(np.int64) if kinds else np.empty(0, np.int64)
    elif kinds <= {"f", "i", "u"} and all((array == np.round(array)).all() for array in arrays):
        label = np.concatenate(arrays).astype(np.int64)
    elif kinds == {"O"} and all(isinstance(value, str) for array in arrays for value in array):
        return np.concatenate(arrays).astype(str)
    elif kinds == {"b"}:
        label = np.concatenate(arrays).astype(np.int64)
    else:
        raise ValueError(f"{shards[0]}: labels must be whole numbers or texts, and these are {columns[0].type}")
    if len(label) and label.max() < 0:
        return None
    if len(label) and label.min() < 0:
        raise ValueError(f"{shards[0]}: {(label < 0).sum()} rows have label -1: remove these rows, or the column")
    return label


def _with_class_indices(
    listings: dict[str, Rows], splits: dict[str, tuple[Path, ...]]
) -> tuple[dict[str, Rows], dict[str, str]]:
    """Turn labels into indices of class names; the second value says for a split why that cannot be done.

    The class names are those that the files declare; a test split without any uses those of the train split. If no
    file declares names, the sorted labels of all splits are the names.
    """
    found, errors, train = dict(listings), {}, listings.get("train")
    labelled = {split: rows for split, rows in listings.items() if rows.label is not None}
    unnamed = {split: rows for split, rows in labelled.items() if not rows.names}
    for split, rows in labelled.items():
        if rows.names:
            found[split] = _indexed(rows, splits[split][0])
        elif split != "train" and train is not None and train.label is not None:
            if rows.label.dtype.kind == "i" and train.names:
                found[split] = _indexed(replace(rows, names=train.names), splits[split][0])
            elif rows.label.dtype.kind != train.label.dtype.kind and not train.names:
                words, numbers = (split, "train") if rows.label.dtype.kind == "U" else ("train", split)
                errors[split] = (
                    f"{splits[words][0]} has labels in words and {splits[numbers][0].name} in numbers, and no file "
                    "says which number stands for which word: use the same kind of labels in both"
                )
                del unnamed[split]
        if found[split] is not rows:
            unnamed.pop(split, None)
    own = np.unique(np.concatenate([rows.label for rows in unnamed.values()])) if unnamed else np.empty(0)  # pyright: ignore[reportArgumentType, reportCallIssue]
    for split, rows in unnamed.items():
        index = np.searchsorted(own, rows.label).astype(np.int64)  # pyright: ignore[reportArgumentType, reportCallIssue]
        found[split] = replace(rows, label=index, names=tuple(str(value) for value in own))
    for split in errors:
        found[split] = replace(listings[split], label=None)
    return found, errors


def _indexed(rows: Rows, shard: Path) -> Rows:
    """Turn the labels of rows into indices of the declared class names."""
    if rows.label.dtype.kind == "U":
        if lacking := sorted(set(rows.label.tolist()) - set(rows.names)):
            raise ValueError(
                f"{shard} has the label {lacking[0]!r}, but its header declares only {', '.join(rows.names)}"
            )
        return replace(rows, label=np.array([rows.names.index(value) for value in rows.label], np.int64))
    if len(rows.label) and rows.label.max() >= len(rows.names):  # pyright: ignore[reportArgumentType]
        raise ValueError(
            f"{shard}: labels must lie in 0..{len(rows.names) - 1} ({len(rows.names)} class names), and these lie in "
            f"{rows.label.min()}..{rows.label.max()}"
        )
    return replace(rows, label=rows.label.copy())
