"""Others' checkpoint files, read without running code: every dictionary of tensors in them."""

from __future__ import annotations

import hashlib
import zipfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unshaken.base.pickles import Skipped
from unshaken.base.safe_text import printable
from unshaken.nets.checkpoint import FORMAT
from unshaken.nets.torch_files import read_safetensors, read_torch

DEEPEST = 8
"""Levels of nested entries in which weights are looked for."""
MOST_ENTRIES = 100_000
STATISTICS = ("mean", "std", "mu", "sigma")
"""Attributes with which some networks normalise pixels, and which are not in their state dict."""


@dataclass(frozen=True, eq=False)
class Container:
    """One dictionary of tensors in a file.

    key      the names of the entries that lead to it, joined by dots; empty if the file itself is the dictionary
    tensors  the tensors by name
    """

    key: str
    tensors: dict[str, Any]

    def __str__(self) -> str:
        return f"under {self.key!r}" if self.key else "the file is the weights"


@dataclass(frozen=True, eq=False)
class ForeignCheckpoint:
    """The content of somebody else's checkpoint file.

    containers  its dictionaries of tensors
    entries     the names of its other entries, at the first two levels
    skipped     classes and functions that the file names; none of them was imported or called
    """

    containers: tuple[Container, ...]
    name: str
    sha256: str
    entries: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def read(path: Path) -> ForeignCheckpoint:
    """Read a checkpoint file without running any code in it. ValueError if it holds no weights."""
    if file_format(path) == "safetensors":
        tensors, header = read_safetensors(path)
        if header.get("format") == FORMAT:
            raise ValueError(f"{path} was written by unshaken: it can be used without an import")
        value, skipped = tensors, ()
    else:
        content = read_torch(path)
        value, skipped = content.value, content.skipped
    containers, entries = _containers(value)
    if not containers:
        kind = value.name if isinstance(value, Skipped) else type(value).__name__
        shown = f"; its entries are {', '.join(entries[:8])}" if entries else ""
        shown += f"; it names the code {', '.join(skipped[:4])}, which was not run" if skipped else ""
        raise ValueError(f"{path} holds a {printable(kind)} without named tensors{shown}")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ForeignCheckpoint(tuple(containers), path.name, sha256, tuple(entries), skipped)


BEGINNINGS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights: `git lfs pull` downloads these"),
    (b"<", "is a web page and not the weights: the download went wrong, repeat it"),
    (b"\x1f\x8b", "is compressed (gzip): unpack it and name the unpacked file"),
    (b"BZh", "is compressed (bzip2): unpack it and name the unpacked file"),
    (b"\xfd7zXZ", "is compressed (xz): unpack it and name the unpacked file"),
    (b"\x89HDF", "is an HDF5 file: a PyTorch or a safetensors file is needed"),
)
"""How files of other kinds begin, and what to say of them."""


def file_format(path: Path) -> str:
    """Return "safetensors" or "torch", from the first bytes of a file. ValueError if it is neither."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the checkpoint file in it")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        raise ValueError(f"{path} is empty: download or copy it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    for beginning, what in BEGINNINGS:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(beginning):
            raise ValueError(f"{path} {what}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive: unpack it and name the unpacked file")
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
        raise ValueError(f"{path} is cut short: download or copy it again") from None
    except (ValueError, NotImplementedError) as error:  # a name that is not text, or a newer version of the format
        raise ValueError(f"{path} is damaged ({printable(error)}): download or copy it again") from None
    if any("/code/" in name for name in names):
        raise ValueError(
            f"{path} is a program (TorchScript), and programs are not run: if you trust it, save its weights with "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"{path} is a zip archive without weights: unpack it and name the checkpoint in it")


def _containers(value: Any) -> tuple[list[Container], list[str]]:
    """Return all dictionaries of tensors in a file, the outer ones first; and the names of its other entries."""
    containers, entries, seen = [], [], set()
    queue = deque([((), value)])
    while queue and len(seen) < MOST_ENTRIES:
        path, node = queue.popleft()
        if id(node) in seen:  # a dictionary under two names counts once
            continue
        seen.add(id(node))
        key = ".".join(path)
        if _is_module(node):
            if tensors := dict(_of_module(node)):
                containers.append(Container(key, tensors))
            continue
        items = [(printable(name), item) for name, item in _entries(node)]
        if tensors := {name: item for name, item in items if _is_tensor(item)}:
            containers.append(Container(key, tensors))
        inner = [(name, item) for name, item in items if not _is_tensor(item)]
        if len(path) < 2:
            entries += [".".join((*path, name)) for name, _ in inner]
        if len(path) < DEEPEST:
            queue += [((*path, name), item) for name, item in inner if _has_entries(item)]  # pyright: ignore[reportOperatorIssue]
    return containers, entries


def _has_entries(node: Any) -> bool:
    return isinstance(node, (dict, list, tuple, Skipped))


def _entries(node: Any) -> Iterator[tuple[Any, Any]]:
    """Iterate over the entries of a node by name or number; an object that was not built has its attributes."""
    if isinstance(node, dict):
        yield from ((name, item) for name, item in node.items() if isinstance(name, (str, int)))
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, Skipped):
        yield from _entries(node.entries)
        state = node.state if isinstance(node.state, (dict, tuple)) else {}
        for attributes in state if isinstance(state, tuple) else (state,):
            yield from _entries(attributes if isinstance(attributes, dict) else {})


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub")


def _is_module(node: Any) -> bool:
    """Return whether a node is a module that was saved itself: torch.save(net), not torch.save(net.state_dict())."""
    return isinstance(node, Skipped) and isinstance(node.state, dict) and "_modules" in node.state


def _of_module(node: Skipped) -> Iterator[tuple[str, Any]]:
    """Iterate over a module's parameters and buffers by their names in its state dict, and over STATISTICS."""
    stack, count = [("", node)], 0
    while stack and count < MOST_ENTRIES:
        prefix, module = stack.pop()
        count += 1
        groups = [module.state.get(group) for group in ("_parameters", "_buffers")]
        groups.append({name: value for name, value in module.state.items() if name in STATISTICS})
        for name, value in (pair for group in groups if isinstance(group, dict) for pair in group.items()):
            if _is_tensor(value):
                yield printable(f"{prefix}{name}"), value
        inner = module.state.get("_modules")
        children = inner.items() if isinstance(inner, dict) else ()
        stack += [(f"{prefix}{name}.", child) for name, child in children if _is_module(child) and len(prefix) < 200]
