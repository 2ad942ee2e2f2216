"""Pickles of CIFAR and ImageNet-32: numbers, text and NumPy arrays; anything else is refused."""

from __future__ import annotations

from typing import IO, Any

from unshaken.base.pickled_arrays import ARRAYS
from unshaken.base.pickles import Reader


def read_pickle(stream: IO[bytes], file_name: str) -> Any:
    """Read a pickle of CIFAR or ImageNet-32. ValueError if it is damaged, or asks for any code to be run."""
    try:
        return Reader(ARRAYS, strict=True).read(stream)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file_name} cannot be read ({error}): unpack the archive again") from error
