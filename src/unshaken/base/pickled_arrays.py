"""NumPy arrays and scalars from a pickle, checked against their shape and dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from unshaken.base.pickles import Builder, Unfinished, dict_of_items

MOST_AXES = 32


class _Dtype(Unfinished):
    def __init__(self, code: str, *_: Any) -> None:
        self.plain = simple(np.dtype(code) if isinstance(code, str) and len(code) < 9 else None)

    def finish(self, state: Any) -> np.dtype:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        return self.plain.newbyteorder(order) if order in ("<", ">") else self.plain


def simple(dtype: Any) -> np.dtype:
    """Return the dtype if its elements are plain numbers or text. ValueError for objects, structures and non-dtypes."""
    dtype = dtype.plain if isinstance(dtype, _Dtype) else dtype
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufSU" or not dtype.itemsize or dtype.names:
        raise ValueError("an array must hold plain numbers or text")
    return dtype


def array(shape: Any, dtype: Any, fortran: Any, raw: Any) -> np.ndarray:
    """Make an array from its bytes. ValueError if their number does not fit the shape and dtype."""
    dtype, raw = simple(dtype), raw.encode("latin1") if isinstance(raw, str) else raw
    shape = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(raw, (bytes, bytearray)) or len(shape) > MOST_AXES:
        raise ValueError(f"an array must be given as bytes, with at most {MOST_AXES} axes")
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {str(shape)[:60]} and {dtype} does not have {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


class _Array(Unfinished):
    def __init__(self, *_: Any) -> None:
        pass

    def finish(self, state: Any) -> np.ndarray:
        return array(*state[-4:])  # shape, dtype, order and bytes; older NumPy puts a version number before them


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise ValueError("bytes must be written as latin-1 text")
    return text.encode(encoding)


def _pairs(pairs: Any = ()) -> dict[Any, Any]:
    return dict_of_items([item for pair in pairs for item in pair]) if not isinstance(pairs, dict) else pairs


def _bytes(raw: Any = b"", encoding: str = "latin1") -> bytes:
    if isinstance(raw, str):
        return _encode(raw, encoding)
    if not isinstance(raw, (bytes, bytearray)):  # bytes(n) of a number would allocate n bytes
        raise ValueError("a bytes object must be made from bytes")
    return bytes(raw)


_BUILTINS = ("builtins", "__builtin__")
_CORES = ("numpy.core", "numpy._core")
ARRAYS: dict[tuple[str, str], Builder] = {
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): lambda dtype, raw: array((), dtype, False, raw)[()] for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): lambda b, t, s, o: array(s, t, o == "F", b) for core in _CORES},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _pairs,
    **{(module, name): _bytes for module in _BUILTINS for name in ("bytes", "bytearray")},
    **{(module, name): lambda of=(): list(of) for module in _BUILTINS for name in ("set", "frozenset")},
}
"""Builders of numbers, text and NumPy arrays, by the (module, name) that the versions of NumPy write."""
