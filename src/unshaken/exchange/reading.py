"""Files that others wrote: weights and nothing else, or one sentence that says what the file is instead."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unshaken.base.tensor_file import check_own
from unshaken.nets.saved import FORMAT

CONTAINERS = ("state_dict_dual", "state_dict", "model", "net", "P_state")
"""Under which of a file's entries the weights lie: the first that is there; else the file is the weights."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """A file's weights by the names that it has for them.

    place   where in the file they lay
    beside  the file's other entries
    """

    tensors: dict[str, Tensor]
    place: str
    beside: tuple[str, ...]
    name: str
    sha256: str


def read(path: Path) -> Foreign:
    """Nothing in the file is run. ValueError, in one sentence, for all that is not weights."""
    kind = sniffed(path)
    found = _safetensors(path) if kind == "safetensors" else _unpickled(path)
    place, weights, beside = _weights(found, path)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Foreign(
        {name: _tensor(name, value, path) for name, value in weights.items()}, place, beside, path.name, sha256
    )


BEGINNINGS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file that it stands for: `git lfs pull` fetches that"),
    (b"<", "is a web page that was saved in place of the weights: the download went wrong, take it again"),
    (b"\x1f\x8b", "is compressed (gzip): unpack it, and name what comes out"),
    (b"BZh", "is compressed (bzip2): unpack it, and name what comes out"),
    (b"\xfd7zXZ", "is compressed (xz): unpack it, and name what comes out"),
    (b"\x89HDF", "is an HDF5 file: needed is a PyTorch or a safetensors file"),
)


def sniffed(path: Path) -> str:
    """ "safetensors" or "torch"; ValueError if the file's beginning shows that it is neither."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the checkpoint file in it")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        raise ValueError(f"{path} is empty: take another copy")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    for beginning, what in BEGINNINGS:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(beginning):
            raise ValueError(f"{path} {what}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive: unpack it, and name what comes out")
    if head.isascii() and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head) and len(head) > 2:
        raise ValueError(f"{path} is a text file, not weights: it begins with {head[:30].decode().split(chr(10))[0]!r}")
    if head.startswith(b"PK"):
        _zip_of_weights(path)
    elif not head.startswith(b"\x80"):
        raise ValueError(f"{path} is neither a PyTorch nor a safetensors file: it begins with {head[:8].hex(' ')}")
    return "torch"


def _zip_of_weights(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is cut short: take another copy") from None
    if any("/code/" in name for name in names):
        raise ValueError(
            f"{path} is a program (TorchScript), and programs are not run: where it is trusted, save its weights by "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"{path} is a zip archive without weights: unpack it, and name the checkpoint in it")


def _safetensors(path: Path) -> dict[str, Tensor]:
    check_own(path)
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("format") == FORMAT:
                raise ValueError(f"{path} is a file of unshaken already: there is nothing to import")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): take another copy") from None


def _dtype(code: str, align: int = 0, copy: int = 0) -> np.dtype:
    # an old NumPy wrote 0 and 1 where a new one insists on booleans
    return np.dtype(code, bool(align), bool(copy))


def _numpy() -> list[Any]:
    """Numbers and arrays of NumPy, as old and new versions call them: they are values, made by NumPy itself."""
    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    named = [
        (part, f"{module}.{name}") for module in modules for part, name in ((scalar, "scalar"), (array, "_reconstruct"))
    ]
    return [*named, (_dtype, "numpy.dtype"), np.ndarray, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)]


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(f"{path} is cut short or damaged ({_first(str(error))}): take another copy") from None
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted:
        raise ValueError(
            f"{path} asks for {wanted[1]}, which is no tensor and could run anything: it was not let in, and nothing "
            "was run. Where the file is trusted and that code is there, keep the weights alone: "
            f"torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], 'weights.pt')"
        )
    raise ValueError(f"{path} is a pickle, but not one of weights as torch.save writes them ({_first(text)})")


def _first(text: str) -> str:
    """What went wrong, without the advice to read the file in another way."""
    lines = [line for line in text.splitlines() if line and "weights_only" not in line]
    return (lines or ["it ends too early"])[0].split(". ")[0][:120]


def _weights(found: Any, path: Path) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Where the weights lie, they, and what lies beside them."""
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} holds a {type(found).__name__}, not weights by name")
    for key in CONTAINERS:
        if _state(found.get(key)):
            return f"under {key!r}", found[key], tuple(str(other) for other in found if other != key)
    if not _state(found):
        entries = ", ".join(str(key) for key in list(found)[:8])
        raise ValueError(f"{path} has weights under none of {', '.join(CONTAINERS)}; its entries are {entries}")
    return "the file is the weights", found, ()


def _state(value: Any) -> bool:
    named = isinstance(value, dict) and all(isinstance(name, str) for name in value)
    return named and any(isinstance(each, (Tensor, np.ndarray)) for each in value.values())


def _tensor(name: str, value: Any, path: Path) -> Tensor:
    """Finite numbers in float32 (counts stay whole), or a ValueError that names them."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiu":
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        raise ValueError(f"{path}: {name!r} is a {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or value.is_complex() or value.is_quantized:
        raise ValueError(f"{path}: {name!r} is a sparse, complex or quantised tensor: needed are plain real numbers")
    if not value.is_floating_point():
        return value.detach()
    value = value.detach().float()
    if not bool(value.isfinite().all()):
        count = int((~value.isfinite()).sum())
        raise ValueError(
            f"{path}: {name} holds {count} values that are no finite numbers: such a network computes nothing"
        )
    return value
