"""Numbers, text and NumPy arrays from a pickle, and nothing else."""

from __future__ import annotations

from typing import IO, Any

from unshaken.base.pickled_arrays import ARRAYS
from unshaken.base.pickles import Reader


def unpickled(stream: IO[bytes], name: str) -> Any:
    """What a file of this kind holds. ValueError if it is broken, or asks for anything to be run."""
    try:
        return Reader(ARRAYS, strict=True).read(stream)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{name} cannot be read ({error}): unpack the archive again") from error
