"""Parquet files in the layout of Hugging Face image sets: one file, or a folder of shards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unshaken.data.decode import Encoded
from unshaken.data.folder_index import Found, Listing, in_parts
from unshaken.data.folder_tree import Branch, LeftOut, Reason
from unshaken.data.parquet_file import declared_classes, image_column, label_column, opened, reading
from unshaken.data.split_names import TEST_PARTS, part_of, parts_of
from unshaken.storage.cache import stamp

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)", re.IGNORECASE)

CHUNK = 256


@dataclass(frozen=True, eq=False)
class Rows(Listing):
    """Rows of shards, counted through all of them."""

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
        """Reads no further than the last row."""
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
    """Read a file, or a folder's shards in row order: `train-*` and `test-*` (or `validation-*`), by any of the names
    of parts, which may be the names of folders too.

    A file by itself, or shards without a test part, are split by each image's content if they have labels.
    """
    left = LeftOut() if left is None else left
    if tree is None:
        parts, place = {"train": (path,)}, str(path)
    else:
        parts, place = _parts(path, tree, left)
    listings = {part: _rows(shards) for part, shards in parts.items()}
    called = {part: f"{shards[0].name}{', ...' if len(shards) > 1 else ''}" for part, shards in parts.items()}
    agreed, wrong = _agreed(listings, parts)
    found = in_parts(place, agreed, called, left)
    if reason := wrong.get(next((part for part in TEST_PARTS if part in agreed), "")):
        found.wrong["test"] = reason
    return found


def _parts(path: Path, tree: Branch, left: LeftOut) -> tuple[dict[str, tuple[Path, ...]], str]:
    """The shards of each part, and where they lie; shards that mean no part are all one."""
    here = tree
    while not here.tables and len(here.folders(tables=True)) == 1:
        here = next(iter(here.folders(tables=True).values()))
    place = str(path / here.path)
    folders = {name: branch.files(tables=True) for name, branch in here.folders(tables=True).items()}
    if here.tables and folders:
        raise ValueError(f"{place} has Parquet files beside folders of them ({', '.join(folders)}): name one folder")
    groups = _groups(here.tables) if here.tables else folders
    named = {name: part_of(name) for name in groups}
    if folders and not any(named.values()):
        raise ValueError(f"{place} has folders of Parquet files that are not parts ({', '.join(folders)}): name one")
    found = parts_of(groups, place, classes=False)
    if not found:
        found = {"train": ""}
        groups = {"": [name for names in groups.values() for name in names]}
    for name in set(groups) - set(found.values()):
        left.note(Reason.TABLE, name, len(groups[name]))
    shards = {}
    for part, name in found.items():
        inside = groups[name] if not here.tables else [str(Path(here.path, file)) for file in groups[name]]
        shards[part] = tuple(path / file for file in sorted(inside))
        _check_complete(shards[part])
    return shards, place


def _groups(files: list[str]) -> dict[str, list[str]]:
    """Files by what they are called without their number: train-00000-of-00003 and train-00001-of-00003 are train."""
    groups: dict[str, list[str]] = {}
    for file in files:
        stem = Path(file).stem
        part = part_of(SHARD.sub(r"\1", stem))
        alike = re.sub(r"[-_. ]*\d+$", "", SHARD.sub(r"\1", stem)) or stem
        groups.setdefault(alike if part else stem, []).append(file)
    return groups


def _check_complete(shards: tuple[Path, ...]) -> None:
    present = {shard.name for shard in shards}
    for shard in shards:
        if match := SHARD.fullmatch(shard.stem):
            part, digits, count = match[1], len(match[2]), int(match[3])
            if count > 10 * len(shards) + 1000:
                raise ValueError(f"{shard} says that it is one of {count:,} shards, and {len(shards)} are there")
            for k in range(count):
                if (name := f"{part}-{k:0{digits}}-of-{match[3]}{shard.suffix}") not in present:
                    raise ValueError(
                        f"{shard.parent} lacks {name}, one of {count} shards: fetch it, or rename the others"
                    )


def _rows(shards: tuple[Path, ...]) -> Rows:
    """The rows of a part, with its labels as they are: whole numbers with declared names, or texts."""
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
            f"{shards[with_labels.index(False)]} has no column of labels, and {shards[with_labels.index(True)].name} "
            "has one: they are not of one set"
        )
    rows = Rows(shards, tuple(sizes), np.arange(sum(sizes)))
    if not all(with_labels):
        return rows
    if odd := next((shard for shard, names in zip(shards, declared, strict=True) if names != declared[0]), None):
        raise ValueError(f"{odd} declares other classes than {shards[0].name}: they are not of one set")
    label = _labels(shards, columns)
    return rows if label is None else replace(rows, label=label, names=declared[0])


def _labels(shards: tuple[Path, ...], columns: list[Any]) -> np.ndarray | None:
    """The label column: int64, or text. None if it says -1 throughout, as unlabelled sets do."""
    for shard, column in zip(shards, columns, strict=True):
        if column.null_count:
            raise ValueError(f"{shard}: {column.null_count} rows have no label: remove them, or the column")
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
        raise ValueError(f"{shards[0]}: labels are whole numbers or texts, and here {columns[0].type}")
    if len(label) and label.max() < 0:
        return None
    if len(label) and label.min() < 0:
        raise ValueError(f"{shards[0]}: {(label < 0).sum()} rows have label -1: remove them, or the column")
    return label


def _agreed(listings: dict[str, Rows], parts: dict[str, tuple[Path, ...]]) -> tuple[dict[str, Rows], dict[str, str]]:
    """The same listings, with labels as indices into the names of the classes; and by part what is wrong with it.

    Names are those that the files declare, a test part may go by those of the train part; else the labels are their
    own names, in order of all parts together.
    """
    found, wrong, train = dict(listings), {}, listings.get("train")
    known = {part: rows for part, rows in listings.items() if rows.label is not None}
    bare = {part: rows for part, rows in known.items() if not rows.names}
    for part, rows in known.items():
        if rows.names:
            found[part] = _indexed(rows, parts[part][0])
        elif part != "train" and train is not None and train.label is not None:
            if rows.label.dtype.kind == "i" and train.names:
                found[part] = _indexed(replace(rows, names=train.names), parts[part][0])
            elif rows.label.dtype.kind != train.label.dtype.kind and not train.names:
                words, numbers = (part, "train") if rows.label.dtype.kind == "U" else ("train", part)
                wrong[part] = (
                    f"{parts[words][0]} has labels in words and {parts[numbers][0].name} in numbers, and nothing says "
                    "which is which: give both the same"
                )
                del bare[part]
        if found[part] is not rows:
            bare.pop(part, None)
    own = np.unique(np.concatenate([rows.label for rows in bare.values()])) if bare else np.empty(0)  # pyright: ignore[reportArgumentType, reportCallIssue]
    for part, rows in bare.items():
        index = np.searchsorted(own, rows.label).astype(np.int64)  # pyright: ignore[reportArgumentType, reportCallIssue]
        found[part] = replace(rows, label=index, names=tuple(str(value) for value in own))
    for part in wrong:
        found[part] = replace(listings[part], label=None)
    return found, wrong


def _indexed(rows: Rows, shard: Path) -> Rows:
    """The same rows, with labels as indices into the names that are declared."""
    if rows.label.dtype.kind == "U":
        if lacking := sorted(set(rows.label.tolist()) - set(rows.names)):
            raise ValueError(f"{shard} has the label {lacking[0]!r}, and its header declares {', '.join(rows.names)}")
        return replace(rows, label=np.array([rows.names.index(value) for value in rows.label], np.int64))
    if len(rows.label) and rows.label.max() >= len(rows.names):  # pyright: ignore[reportArgumentType]
        raise ValueError(
            f"{shard}: labels lie in 0..{len(rows.names) - 1} ({len(rows.names)} class names), but here in "
            f"{rows.label.min()}..{rows.label.max()}"
        )
    return replace(rows, label=rows.label.copy())
