"""Pack a set of images into one file, from which training reads batches however large the set is"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unshaken.base.amounts import amount
from unshaken.base.python_words import in_python
from unshaken.data.archived import archived, archives_at
from unshaken.data.folder_index import Found
from unshaken.data.packed_file import read_packed
from unshaken.data.packing import Packing, report_skipped
from unshaken.data.packing import pack as pack_found
from unshaken.data.source import STANDARD, found_at


@in_python
def pack(
    data: str | Path,
    out: str | Path,
    *,
    short_side: int | None = None,
    unreadable: Literal["stop", "skip"] = "stop",
    bits: int | None = None,
) -> Path:
    """Pack images into one file, and return its path, which is a data set like a folder: DataSource(path).

    data        a folder of images, Parquet files as of the Hugging Face Hub, or zip or tar archives of images
    out         the file to write; it appears when it is complete, and a packing that was stopped is resumed
    short_side  encode larger images again as JPEG, with this shorter side; None: the bytes are copied
    unreadable  stop at an image that cannot be read, or skip it
    bits        the number of bits that grey images of 16 bits per pixel really use

    ValueError for a user's mistake.
    """
    found = images_at(Path(data).expanduser())
    packed = pack_found(found, Path(out).expanduser(), Packing(short_side, unreadable, bits))
    report_skipped(packed)
    return packed.path


def images_at(path: Path) -> Found:
    """Return the images of a folder, of Parquet files, or in archives. ValueError if there are none."""
    if not path.exists():
        hint = ": name the folder that holds its images" if str(path) in STANDARD else ""
        raise ValueError(f"there are no images at {path}{hint}")
    archives = archives_at(path)
    return archived(path, archives) if archives else found_at(path)


def size_of(path: Path) -> str:
    """Return the number of images in a packed set, and its size, in words."""
    count = sum(split["count"] for split in read_packed(path).about["splits"])
    return f"{amount(count, 'image')}, {path.stat().st_size / 1e6:,.1f} MB"
