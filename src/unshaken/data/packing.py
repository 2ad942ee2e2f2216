"""Packing: the encoded images of a set are copied into one file, each decoded once for its digest; it can be resumed"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
from PIL import Image

from unshaken.base.amounts import amount
from unshaken.base.atomic_files import naming
from unshaken.base.checksum import checksum
from unshaken.base.json_files import read_bytes, read_json, write_json
from unshaken.base.json_shapes import Items, Whole
from unshaken.base.locks import Busy, Lock
from unshaken.base.progress import progress
from unshaken.data.decode import FORMATS_BY_SUFFIX, Encoded, upright
from unshaken.data.folder_index import Found
from unshaken.data.image_digests import image_digest
from unshaken.data.packed_file import BEGIN, MOST_INDEX, PackedFile, read_packed, sum_of_bytes, write_index
from unshaken.data.prefetch import NEARLY_BLACK, VERSION, reason_of

WINDOW = 64
"""Images that are in memory at the same time."""
SHARD = 1024
"""Images after which the journal is written."""
QUALITY = 90
"""JPEG's quality of images that are encoded again."""
RECORD = np.dtype([("size", "<i8"), ("digest", "<u8"), ("sum", "u1", 16)])
"""The record of each image while packing; the size of an unreadable one is -1."""
JOURNAL = {
    "source": str,
    "done": Whole(0),
    "bytes": Whole(0),
    "records": Whole(0),
    "unreadable": Items(str),
    "deep": Items(Whole(0), 3, 3),
}
"""The shape of the journal: how many images are done, the length of the data, and a checksum of the records."""


@dataclass(frozen=True)
class Packing:
    """How a set is packed.

    short_side  encode larger images again, as JPEG with this shorter side; None: copy all bytes
    unreadable  stop at an image that cannot be read, or skip it
    bits        as in `DataSource`
    """

    short_side: int | None = None
    unreadable: Literal["stop", "skip"] = "stop"
    bits: int | None = None


@dataclass(frozen=True)
class Prepared:
    """An image to be packed: its bytes, the digest of its pixels, and `top` as in `decode.Picture`."""

    content: bytes
    digest: int
    top: int


def pack(found: Found, out: Path, how: Packing = Packing()) -> PackedFile:
    """Pack all splits of a set into one file. Equal images and options give equal files.

    Work in progress lies in a folder beside the file. A packing that ends at any moment, even by kill -9, is resumed by
    the next one of the same images. ValueError for an unreadable image, unless these are skipped; then the other images
    are packed, and the file says which are missing.
    """
    source = checksum([repr((VERSION, _stamps(found), how.short_side, how.bits)).encode()])
    work = out.with_name(f"{out.name}.packing")
    if out.exists() and not work.exists():
        raise ValueError(f"{out} exists already; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    try:
        with Lock(work / "lock"), naming(work):
            if not out.exists():
                _Work(found, how, work, source).finish(out)
            elif (work / "data").exists() or _source_of(work) != source:
                raise ValueError(f"{out} exists already; choose another --out")
    except Busy:
        raise ValueError(
            f"another process is packing images into {out}: wait for it, or choose another --out"
        ) from None
    shutil.rmtree(work, ignore_errors=True)
    return read_packed(out)


def _source_of(work: Path) -> str:
    """Return what a packing in progress is of; empty if it does not say."""
    try:
        return read_json(work / "journal.json", JOURNAL)["source"]
    except ValueError:
        return ""


def _stamps(found: Found) -> list[tuple[str, object, object]]:
    """Return what changes when any image, any label or any class changes."""
    return [
        (split, listing.stamp(), (listing.names, None if listing.label is None else listing.label.tolist()))
        for split, listing in found.splits.items()
    ]


class _Work:
    """A packing in progress: a file of data, a file of records, and a journal that says how much of both is sound."""

    def __init__(self, found: Found, how: Packing, work: Path, source: str) -> None:
        self.found, self.how, self.source = found, how, source
        self.data, self.records, self.journal = work / "data", work / "records", work / "journal.json"
        self.total = sum(map(len, found.splits.values()))
        self.state = self._resumed() or self._begun()

    def _begun(self) -> dict[str, Any]:
        self.data.write_bytes(BEGIN)
        self.records.write_bytes(b"")
        return {
            "source": self.source,
            "done": 0,
            "bytes": len(BEGIN),
            "records": 0,
            "unreadable": [],
            "deep": [0, 0, 0],
        }

    def _resumed(self) -> dict[str, Any] | None:
        """Return the journal if it is of the same images and the files have what it says; None to begin anew."""
        try:
            state = read_json(self.journal, JOURNAL)
            records = read_bytes(self.records, MOST_INDEX)[: state["done"] * RECORD.itemsize]
            sizes = np.frombuffer(records, RECORD)["size"]
        except ValueError:
            return None
        sound = crc32(records) == state["records"] and len(BEGIN) + sizes[sizes > 0].sum() == state["bytes"]
        if not sound or state["source"] != self.source or self.data.stat().st_size < state["bytes"]:
            return None
        os.truncate(self.data, state["bytes"])
        os.truncate(self.records, len(records))
        return state

    def finish(self, out: Path) -> None:
        """Copy the images that are missing, then the index, and give the file its name."""
        with open(self.data, "ab") as data, open(self.records, "ab") as records:
            caption = f"packing {self.found.location}"
            with warnings.catch_warnings(), progress(caption, self.total, "images", self.state["done"]) as advance:
                warnings.simplefilter("ignore")  # Pillow warns of damaged metadata around good pixels
                for window in self._windows():
                    self._append(window, data, records)
                    advance(len(window))
            table = np.frombuffer(read_bytes(self.records, MOST_INDEX), RECORD)
            if (table["size"] < 0).all():
                raise ValueError(f"{self.found.location}: no image can be read ({self.state['unreadable'][0]})")
            write_index(data, *self._index(table))
            data.flush()
            os.fsync(data.fileno())
        os.replace(self.data, out)

    def _windows(self) -> Iterator[list[tuple[str, Prepared | str]]]:
        """Read and decode the images that are not packed yet, some at a time."""
        listings, done = [], self.state["done"]
        for listing in self.found.splits.values():
            listings.append(listing.at(np.arange(min(done, len(listing)), len(listing))))
            done = max(done - len(listing), 0)
        items = chain.from_iterable(listing.encoded() for listing in listings)
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            while window := list(islice(items, WINDOW)):
                names = (name for name, _ in window)
                yield list(zip(names, pool.map(partial(prepared, how=self.how), window), strict=True))

    def _append(self, window: list[tuple[str, Prepared | str]], data: Any, records: Any) -> None:
        """Write some images. From time to time they reach the disk, and then the journal says so."""
        broken = [one for _, one in window if isinstance(one, str)]
        if broken and self.how.unreadable == "stop":
            raise ValueError(f"{self.found.location}: {broken[0]}; remove it, or pass --unreadable skip")
        table = np.zeros(len(window), RECORD)
        for row, (_, one) in enumerate(window):
            if isinstance(one, str):
                table[row]["size"] = -1
                continue
            data.write(one.content)
            table[row] = len(one.content), one.digest, np.frombuffer(sum_of_bytes(one.content), np.uint8)
        records.write(table.tobytes())
        tops = [one.top for _, one in window if isinstance(one, Prepared) and one.top >= 0]
        count, dark, top = self.state["deep"]
        self.state["deep"] = [count + len(tops), dark + sum(t < NEARLY_BLACK for t in tops), max([top, *tops])]
        self.state["bytes"] += int(table["size"][table["size"] > 0].sum())
        self.state["records"] = crc32(table.tobytes(), self.state["records"])
        self.state["unreadable"] += broken
        self.state["done"] += len(window)
        if self.state["done"] % SHARD < len(window) or self.state["done"] == self.total:
            for file in (data, records):
                file.flush()
                os.fsync(file.fileno())
            write_json(self.journal, self.state)

    def _index(self, table: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the arrays and the text of the index, without the images that cannot be read."""
        readable, splits, arrays, names, begin = table["size"] >= 0, [], {}, [], 0
        for split, listing in self.found.splits.items():
            rows = np.flatnonzero(readable[begin : begin + len(listing)])
            begin += len(listing)
            kept = {"name": split, "count": len(rows), "classes": list(listing.names), "reason": listing.reason}
            splits.append(kept)
            names += [name.encode("utf-8", "replace") for name in listing.called(rows)]
            if listing.label is not None:
                arrays[f"label.{split}"] = listing.label[rows]
        table = table[readable]
        arrays |= {"digests": table["digest"].astype(np.uint64), "sums": np.ascontiguousarray(table["sum"])}
        arrays |= {"offsets": np.cumsum([len(BEGIN), *table["size"]]), "name_ends": np.cumsum([*map(len, names)])}
        arrays |= {"names": np.frombuffer(b"".join(names), np.uint8)}
        about = {name: self.state[name] for name in ("unreadable", "deep")}
        about |= {"location": self.found.location, "splits": splits, "by_content": self.found.by_content}
        about |= {"errors": self.found.errors, "short_side": self.how.short_side, "bits": self.how.bits}
        return arrays, about


def prepared(item: tuple[str, Encoded], how: Packing) -> Prepared | str:
    """Decode an image once, and return what is packed of it, or the reason why it cannot be read."""
    name, encoded = item
    try:
        with upright(encoded, how.bits) as (image, top):
            digest = image_digest(image)
            if how.short_side is not None and min(image.size) > how.short_side:
                return Prepared(encoded_again(image, how.short_side), digest, top)
            if isinstance(encoded, Path) and encoded.suffix.lower() in FORMATS_BY_SUFFIX:
                return Prepared(_as_png(image), digest, top)  # without its name, its format would not be known
        assert encoded is not None
        return Prepared(encoded if isinstance(encoded, bytes) else encoded.read_bytes(), digest, top)
    except Exception as error:  # Pillow's readers raise errors of any type for a damaged file
        return f"{name}: {reason_of(error)}"


def encoded_again(image: Image.Image, side: int) -> bytes:
    """Return a smaller copy of an image as JPEG: `side` is the length of its shorter side."""
    scale, file = side / min(image.size), BytesIO()
    width, height = (max(side, round(length * scale)) for length in image.size)
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _as_png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def report_skipped(packed: PackedFile) -> None:
    """Say on stderr which images were left out."""
    broken = packed.about["unreadable"]
    if broken:
        some, s = f"{', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}", "is" if len(broken) == 1 else "are"
        what = f"{amount(len(broken), 'image')} cannot be read and {s} skipped: {some}"
        print(f"{packed.about['location']}: {what}", file=sys.stderr)
