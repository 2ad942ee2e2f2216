"""Numbers, text and NumPy arrays from a pickle, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import IO, Any

import numpy as np


def unpickled(stream: IO[bytes], name: str) -> Any:
    """What a file of this kind holds. ValueError if it is broken, or asks for anything to be run."""
    try:
        return _Restricted(stream, encoding="latin1").load()
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"{name} cannot be read ({' '.join(str(error).split())}): unpack the archive again") from error


class _Restricted(pickle.Unpickler):
    """Reads numbers, text and NumPy arrays. A pickle may name any function to call: all others are refused."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is refused: only numbers, text and NumPy arrays belong here")
        return _ALLOWED[module, name]


def _dtype(code: str, align: int = 0, copy: int = 0) -> np.dtype:
    # the archives, written by an old NumPy, say 0 and 1 where a new one insists on booleans
    return np.dtype(code, bool(align), bool(copy))


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


_RECONSTRUCT = np.empty(0).__reduce__()[0]  # its module has changed its name between versions of NumPy
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
