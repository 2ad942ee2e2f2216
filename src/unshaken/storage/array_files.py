"""NumPy's .npy files, read safely: the header is never evaluated, and the size is checked."""

from __future__ import annotations

import io
import re
from math import prod
from pathlib import Path

import numpy as np

from unshaken.base.json_files import naming

LONGEST_HEADER = 10_000
"""The most bytes of a header, as in NumPy."""
# the dictionary that NumPy writes, for booleans, integers and floats only
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[buif]\d{1,2})', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\),? ?\}\s*"
)


def header_of(array: np.ndarray) -> bytes:
    """Return the bytes of the .npy header of a contiguous array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue()


def array_from(content: bytearray | np.ndarray, where: str) -> np.ndarray:
    """Read an array from a file's content, without a copy. ValueError unless it has booleans, integers or floats.

    where  the file's name, for messages
    """
    view = memoryview(content)
    start = bytes(view[:12])
    if len(start) < 12 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        what = "is empty" if not len(view) else "does not begin like a NumPy array file"
        raise ValueError(f"{where} cannot be read as an array: it {what}")
    begin = 10 if start[6] == 1 else 12  # versions 2 and 3 give the header's length in 4 bytes instead of 2
    end = begin + int.from_bytes(start[8:begin], "little")
    found = _HEADER.fullmatch(bytes(view[begin:end])) if end <= min(LONGEST_HEADER, len(view)) else None
    if found is None:
        raise ValueError(
            f"{where} cannot be read as an array: its header is damaged, or not that of an array of numbers"
        )
    sizes = re.findall(rb"\d+", found[3])
    # cut, because int() refuses thousands of digits; a shape that is cut does not fit the size below
    shape = tuple(int(size[:19]) for size in sizes[:33])
    try:
        dtype = np.dtype(found[1].decode())
    except TypeError:
        raise ValueError(f"{where} cannot be read as an array: NumPy has no type {found[1].decode()!r}") from None
    if len(shape) > 32 or prod(shape) * dtype.itemsize != len(view) - end:
        needed = prod(shape) * dtype.itemsize
        raise ValueError(
            f"{where} cannot be read as an array: its shape needs {needed:,} bytes, "
            f"but {len(view) - end:,} follow the header"
        )
    flat = np.frombuffer(content, dtype, offset=end)
    return flat.reshape(shape, order="F" if found[2] == b"True" else "C")


def mapped_array(path: Path) -> np.ndarray:
    """Memory-map the array in a file. ValueError unless it has booleans, integers or floats."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.stat().st_size == 0:  # np.memmap refuses an empty file
        raise ValueError(f"{path} cannot be read as an array: it is empty")
    with naming(path):
        return array_from(np.memmap(path, np.uint8, "r"), str(path))
