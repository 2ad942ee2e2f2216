"""`unshaken pack`: a folder, Parquet files or archives of images become one file, for sets larger than memory"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from unshaken.base.ranges import Count, Range, ranged
from unshaken.options import parse, subject
from unshaken.runs import pack as runs


@dataclass(frozen=True)
@ranged
class PackOptions:
    """Copy the encoded images of a set into one file. Training from it (--data FILE) reads and decodes a few batches
    ahead, so that memory does not grow with the set.

    Each image is decoded once, to find those that cannot be read and to recognise it as a test image later. A packing
    that was stopped is resumed by the same command.
    """

    out: Path | None = None
    """File to write."""
    short_side: Count | None = None
    """Encode larger images again, as JPEG of quality 90 whose shorter side has this many pixels, such as 256. The set
    is then another one, with another digest. None: all bytes are copied as they are."""
    unreadable: Literal["stop", "skip"] = "stop"
    """What to do about unreadable images: stop with a message that names the first, or skip them and name some."""
    bits: Annotated[int, Range(8, 16)] | None = None
    """Number of bits that grey images of 16 bits per pixel really use, such as 12."""


def pack(args: list[str]) -> None:
    what = "a folder of images, Parquet files, or zip or tar archives of images"
    name, rest = subject(args, "pack", "IMAGES", what, PackOptions())
    options = parse(PackOptions(), rest, f"unshaken pack {name}")
    if options.out is None:
        raise ValueError("`unshaken pack` needs a file to write: --out FILE")
    path = runs.pack(name, options.out, short_side=options.short_side, unreadable=options.unreadable, bits=options.bits)
    print(f"{path}  {runs.size_of(path)}")
    print(f"next: unshaken pretrain acl/imagenet --data {path}")
