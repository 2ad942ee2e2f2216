"""Files that others wrote: every place in them where weights lie, or one sentence that says what they are."""

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
"""How deep in a file weights are looked for."""
MOST_PLACES = 100_000
STATISTICS = ("mean", "std", "mu", "sigma")
"""Tensors that networks keep as plain attributes, outside of their state, to normalise pixels with."""


@dataclass(frozen=True, eq=False)
class Container:
    """One dictionary of tensors in a file.

    key      its place: the entries that lead to it, with dots between; empty if it is the file itself
    tensors  by their names in it
    """

    key: str
    tensors: dict[str, Any]

    def __str__(self) -> str:
        return f"under {self.key!r}" if self.key else "the file is the weights"


@dataclass(frozen=True, eq=False)
class ForeignCheckpoint:
    """What somebody's file holds.

    containers  the places where tensors lie
    entries     the names of its other entries, those within an entry after a dot
    skipped     classes and functions that it names; none of them was looked up
    """

    containers: tuple[Container, ...]
    name: str
    sha256: str
    entries: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def read(path: Path) -> ForeignCheckpoint:
    """Nothing in the file is run. ValueError, in one sentence, for all that is not weights."""
    if file_format(path) == "safetensors":
        tensors, header = read_safetensors(path)
        if header.get("format") == FORMAT:
            raise ValueError(f"{path} is a file of unshaken already: there is nothing to import")
        value, skipped = tensors, ()
    else:
        content = read_torch(path)
        value, skipped = content.value, content.skipped
    containers, entries = _places(value)
    if not containers:
        kind = value.name if isinstance(value, Skipped) else type(value).__name__
        shown = f"; its entries are {', '.join(entries[:8])}" if entries else ""
        shown += f"; it names {', '.join(skipped[:4])}, and nothing of that was run" if skipped else ""
        raise ValueError(f"{path} holds a {printable(kind)} without tensors by name{shown}")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ForeignCheckpoint(tuple(containers), path.name, sha256, tuple(entries), skipped)


BEGINNINGS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file that it stands for: `git lfs pull` fetches that"),
    (b"<", "is a web page that was saved in place of the weights: the download went wrong, take it again"),
    (b"\x1f\x8b", "is compressed (gzip): unpack it, and name what comes out"),
    (b"BZh", "is compressed (bzip2): unpack it, and name what comes out"),
    (b"\xfd7zXZ", "is compressed (xz): unpack it, and name what comes out"),
    (b"\x89HDF", "is an HDF5 file: needed is a PyTorch or a safetensors file"),
)


def file_format(path: Path) -> str:
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
    except (ValueError, NotImplementedError) as error:  # a name that is no text, or a version to come
        raise ValueError(f"{path} is damaged ({printable(error)}): take another copy") from None
    if any("/code/" in name for name in names):
        raise ValueError(
            f"{path} is a program (TorchScript), and programs are not run: where it is trusted, save its weights by "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"{path} is a zip archive without weights: unpack it, and name the checkpoint in it")


def _places(value: Any) -> tuple[list[Container], list[str]]:
    """All dictionaries of tensors in a file, the outer ones first; and the names of the entries at its top."""
    containers, entries, seen = [], [], set()
    queue = deque([((), value)])
    while queue and len(seen) < MOST_PLACES:
        path, node = queue.popleft()
        if id(node) in seen:  # one dictionary under two names is one
            continue
        seen.add(id(node))
        key = ".".join(path)
        if _is_module(node):
            if tensors := dict(_of_module(node)):
                containers.append(Container(key, tensors))
            continue
        parts = [(printable(name), part) for name, part in _entries(node)]
        if tensors := {name: part for name, part in parts if _is_tensor(part)}:
            containers.append(Container(key, tensors))
        inner = [(name, part) for name, part in parts if not _is_tensor(part)]
        if len(path) < 2:
            entries += [".".join((*path, name)) for name, _ in inner]
        if len(path) < DEEPEST:
            queue += [((*path, name), part) for name, part in inner if _has_entries(part)]  # pyright: ignore[reportOperatorIssue]
    return containers, entries


def _has_entries(node: Any) -> bool:
    return isinstance(node, (dict, list, tuple, Skipped))


def _entries(node: Any) -> Iterator[tuple[Any, Any]]:
    """By name or by number. Of an object that was not built: those that it would have had."""
    if isinstance(node, dict):
        yield from ((name, part) for name, part in node.items() if isinstance(name, (str, int)))
    elif isinstance(node, (list, tuple)):
        yield from enumerate(node)
    elif isinstance(node, Skipped):
        yield from _entries(node.entries)
        state = node.state if isinstance(node.state, (dict, tuple)) else {}
        for part in state if isinstance(state, tuple) else (state,):
            yield from _entries(part if isinstance(part, dict) else {})


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub")


def _is_module(node: Any) -> bool:
    """A network that was saved whole: torch.save(net) and not torch.save(net.state_dict())."""
    return isinstance(node, Skipped) and isinstance(node.state, dict) and "_modules" in node.state


def _of_module(node: Skipped) -> Iterator[tuple[str, Any]]:
    """Parameters and buffers by the names that they have in the state of the network, and a normalisation's numbers."""
    stack, count = [("", node)], 0
    while stack and count < MOST_PLACES:
        prefix, module = stack.pop()
        count += 1
        groups = [module.state.get(group) for group in ("_parameters", "_buffers")]
        groups.append({name: part for name, part in module.state.items() if name in STATISTICS})
        for name, part in (pair for group in groups if isinstance(group, dict) for pair in group.items()):
            if _is_tensor(part):
                yield printable(f"{prefix}{name}"), part
        inner = module.state.get("_modules")
        inside = inner.items() if isinstance(inner, dict) else ()
        stack += [(f"{prefix}{name}.", part) for name, part in inside if _is_module(part) and len(prefix) < 200]
