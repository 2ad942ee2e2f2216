"""Arrays and scalars of NumPy from a pickle, made of bytes that are checked against their shape and type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from unshaken.base.pickles import Builder, Unfinished, paired

MOST_AXES = 32


class _Dtype(Unfinished):
    def __init__(self, code: str, *_: Any) -> None:
        self.plain = simple(np.dtype(code) if isinstance(code, str) and len(code) < 9 else None)

    def finish(self, state: Any) -> np.dtype:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        return self.plain.newbyteorder(order) if order in ("<", ">") else self.plain


def simple(dtype: Any) -> np.dtype:
    """A dtype of plain numbers or text. ValueError for all others: objects, structures, and what is none."""
    dtype = dtype.plain if isinstance(dtype, _Dtype) else dtype
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufSU" or not dtype.itemsize or dtype.names:
        raise ValueError("arrays are of plain numbers or text")
    return dtype


def array(shape: Any, dtype: Any, fortran: Any, raw: Any) -> np.ndarray:
    """An array from its bytes, which have to be as many as its shape and dtype say."""
    dtype, raw = simple(dtype), raw.encode("latin1") if isinstance(raw, str) else raw
    shape = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(raw, (bytes, bytearray)) or len(shape) > MOST_AXES:
        raise ValueError("the numbers of an array are its bytes")
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {str(shape)[:60]} and {dtype} is not made of {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


class _Array(Unfinished):
    def __init__(self, *_: Any) -> None:
        pass

    def finish(self, state: Any) -> np.ndarray:
        return array(*state[-4:])  # a version may stand before shape, dtype, order and bytes


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise ValueError("bytes are written as latin-1 text")
    return text.encode(encoding)


def _pairs(pairs: Any = ()) -> dict[Any, Any]:
    return paired([part for pair in pairs for part in pair]) if not isinstance(pairs, dict) else pairs


def _bytes(raw: Any = b"", encoding: str = "latin1") -> bytes:
    if isinstance(raw, str):
        return _encode(raw, encoding)
    if not isinstance(raw, (bytes, bytearray)):  # a number would ask for as many bytes
        raise ValueError("bytes are made of bytes")
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
"""What makes numbers, text and arrays of NumPy, by the names that its versions have for them."""
