"""Arrays in NumPy's files: a header that is matched and not evaluated, and a size that is held against the file's."""

from __future__ import annotations

import io
import re
from math import prod
from pathlib import Path

import numpy as np

from unshaken.base.json_files import naming

LONGEST = 10_000
"""Bytes of a header, as NumPy itself has it."""
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[buif]\d{1,2})', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\),? ?\}\s*"
)


def header_of(pixels: np.ndarray) -> bytes:
    """What stands before the numbers of a contiguous array in a file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(pixels))
    return header.getvalue()


def array_from(content: bytearray | np.ndarray, where: str) -> np.ndarray:
    """The array that a file's content stands for, without a copy. ValueError unless it is one of plain numbers."""
    view = memoryview(content)
    start = bytes(view[:12])
    if len(start) < 12 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        what = "is empty" if not len(view) else "does not begin as an array of NumPy's does"
        raise ValueError(f"{where} cannot be read as an array: it {what}")
    begin = 10 if start[6] == 1 else 12
    end = begin + int.from_bytes(start[8:begin], "little")
    found = _HEADER.fullmatch(bytes(view[begin:end])) if end <= min(LONGEST, len(view)) else None
    if found is None:
        raise ValueError(f"{where} cannot be read as an array: its header is not one of a plain array of numbers")
    sizes = re.findall(rb"\d+", found[3])
    shape = tuple(int(size[:19]) for size in sizes[:33])  # more digits or axes than that fit into no file
    try:
        dtype = np.dtype(found[1].decode())
    except TypeError:
        raise ValueError(f"{where} cannot be read as an array: there is no {found[1].decode()!r}") from None
    if len(shape) > 32 or prod(shape) * dtype.itemsize != len(view) - end:
        needed = prod(shape) * dtype.itemsize
        raise ValueError(
            f"{where} cannot be read as an array: its shape needs {needed:,} bytes, and it has {len(view) - end:,}"
        )
    flat = np.frombuffer(content, dtype, offset=end)
    return flat.reshape(shape, order="F" if found[2] == b"True" else "C")


def mapped_array(path: Path) -> np.ndarray:
    """The array in a file, of which only what is used is in memory. ValueError if it is none of plain numbers."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} cannot be read as an array: it is empty")
    with naming(path):
        return array_from(np.memmap(path, np.uint8, "r"), str(path))
