"""Reading files of torch.save, pickle and safetensors without running code from them."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unshaken.base.pickled_arrays import ARRAYS
from unshaken.base.pickles import Builder, Named, Reader, Skipped
from unshaken.base.safe_text import printable
from unshaken.base.tensor_file import check_own

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that torch.save of PyTorch before 1.6 writes first, as a pickle of its own."""
MOST_EXPANSION = 16
"""The largest ratio of a zip file's unpacked to its packed size. torch.save does not compress."""
MOST_AXES = 16

STORAGES = {
    **{f"{name}Storage": getattr(torch, name.lower()) for name in ("Float", "Double", "Half", "Long", "Int", "Short")},
    "BFloat16Storage": torch.bfloat16,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        *("complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"),
    )
}


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a file.

    value    nested as in the file: dictionaries, lists, tensors, NumPy arrays, numbers, text, and Skipped objects
    skipped  the names of classes and functions that were not imported
    """

    value: Any
    skipped: tuple[str, ...]


def read_torch(path: Path) -> Content:
    """Read a file of torch.save (zipped, or from before 1.6) or a plain pickle. ValueError, in one line, if broken."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return _zipped(file, size) if zipped else _plain(file, size)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is cut short or damaged ({printable(error)}): use another copy") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a broken or encrypted file may raise anything
        raise ValueError(f"{path} cannot be read as weights ({printable(error)}): use another copy") from None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read any safetensors file: its tensors, and the text in its header."""
    check_own(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"{path} is not a complete safetensors file ({reason}): use another copy") from None


def _zipped(file: IO[bytes], size: int) -> Content:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > MOST_EXPANSION * size:
            raise ValueError(f"it says that it unpacks to {total:,} bytes")
        if damaged := archive.testzip():  # which compares the checksum of every member
            raise zipfile.BadZipFile(f"the checksum of {damaged[:60]} does not fit its content")
        pickles = [member.filename for member in members if member.filename.split("/")[-1] == "data.pkl"]
        if not pickles:
            raise ValueError("it has no data.pkl")
        folder = min(pickles, key=len).removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        loading = _Loading(lambda key, count, dtype: _stored(archive.read(f"{folder}data/{key}"), count, dtype))
        return loading.content(io.BytesIO(archive.read(f"{folder}data.pkl")))


def _stored(raw: bytes, count: int, dtype: torch.dtype) -> Tensor:
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"{len(raw)} bytes are stored where {count} numbers were declared")
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _plain(file: IO[bytes], size: int) -> Content:
    """Read several pickles followed by the numbers; or a single pickle that contains its arrays or tensors."""
    first = _Loading(None).content(file)
    return _legacy(file, size) if first.value == MAGIC else first


def _legacy(file: IO[bytes], size: int) -> Content:
    storages: dict[str, Tensor] = {}

    def announced(key: str, count: int, dtype: torch.dtype) -> Tensor:
        """Allocate memory for numbers that follow the pickle, but not for more than the file can hold."""
        total = sum(storage.nbytes for storage in storages.values()) + count * dtype.itemsize
        if total > size:
            raise ValueError("it declares more numbers than it holds")
        storages[key] = torch.zeros(count, dtype=dtype)
        return storages[key]

    loading = _Loading(announced)
    for _ in ("version", "system"):
        Reader({}).read(file)
    content = loading.content(file)
    keys = Reader({}).read(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("its numbers are not those that it declared")
    for key in keys:
        count, room = int.from_bytes(file.read(8), "little"), storages[key]
        raw = file.read(room.nbytes)
        if count != len(room) or len(raw) != room.nbytes:
            raise ValueError("it is cut short")
        room.copy_(_stored(raw, count, room.dtype))
    return content


class _Loading:
    """The reading of one pickle with tensors, of which several may share a storage.

    fetch  returns the numbers of a storage, given its key, their count and their dtype
    """

    def __init__(self, fetch: Any) -> None:
        self.fetch, self.storages = fetch, {}
        builders: dict[tuple[str, str], Builder] = ARRAYS | {
            ("torch._utils", "_rebuild_tensor"): view,
            ("torch._utils", "_rebuild_tensor_v2"): view,
            ("torch._utils", "_rebuild_tensor_v3"): _typed,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
            ("torch.nn.parameter", "Parameter"): lambda tensor, *_: tensor,
            ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): lambda tensor, *_: tensor,
            ("torch._utils", "_rebuild_device_tensor_from_numpy"): lambda array, *_: torch.from_numpy(np.array(array)),
            ("torch._tensor", "_rebuild_from_type_v2"): lambda make, kind, parts, _: self.reader.call(make, parts),
            ("torch.storage", "_load_from_bytes"): _within,
            ("torch", "Size"): lambda sizes=(): tuple(sizes),
            ("collections", "defaultdict"): lambda *_: {},
            ("collections", "Counter"): lambda entries=(): dict(entries) if isinstance(entries, dict) else {},
        }  # fmt: skip
        self.reader = Reader(builders, _is_harmless, self.persistent if fetch else None)

    def content(self, stream: IO[bytes]) -> Content:
        value = self.reader.read(stream)
        return Content(value, tuple(self.reader.skipped))

    def persistent(self, what: Any) -> Any:
        kind, *parts = what if isinstance(what, tuple) and what else (None,)
        if kind == "module" and parts:
            return parts[0]
        if kind != "storage" or len(parts) < 4:
            raise ValueError("it refers to something that is not a storage")
        name, key, _, count, *of = parts
        dtype = STORAGES.get(name.name) if isinstance(name, Named) else None
        if dtype is None:
            return Skipped(str(name))
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("a storage must have a key and a size")
        if key not in self.storages:
            self.storages[key] = self.fetch(key, count, dtype)
        return _slice(self.storages[key], of[0] if of else None)


def _slice(storage: Tensor, of: Any) -> Tensor:
    """Return a part of a storage. Files from before PyTorch 0.4 state its offset and length; others want all of it."""
    if of is None:
        return storage
    _, start, count = of
    if not 0 <= start <= start + count <= len(storage):
        raise ValueError("a view of a storage ends outside of it")
    return storage[start : start + count]


def _is_harmless(name: Named) -> bool:
    """Return whether a name may stand in a file as a value: a Python type, a dtype, the type of a storage."""
    module, word = name
    if module in ("builtins", "__builtin__"):
        return word in ("dict", "list", "tuple", "set", "int", "float", "str", "bool")
    return (module in ("torch", "torch.storage") and word in STORAGES) or (module == "torch" and word in DTYPES)


def view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """Return a tensor that views a storage. ValueError if it exceeds the storage or has more entries than it."""
    if not isinstance(storage, Tensor) or storage.ndim != 1 or len(size) != len(stride) or len(size) > MOST_AXES:
        raise ValueError("a tensor must have a storage, and as many strides as sizes")
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("sizes and strides must be whole numbers")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    if last >= max(len(storage), 1) or count > len(storage):
        raise ValueError("a tensor exceeds its storage")
    return storage.as_strided(size, stride, offset) if count else storage.new_empty(size)


def _typed(storage: Tensor, offset: int, size: Any, stride: Any, _: Any, hooks: Any, kind: Any, *more: Any) -> Tensor:
    dtype = DTYPES[kind.name]
    if len(storage) % dtype.itemsize:
        raise ValueError("the size of a storage is not a multiple of its dtype's")
    return view(storage.view(dtype), offset, size, stride)


def _within(raw: bytes) -> Any:
    """Read a storage that torch.save wrote into the pickle itself."""
    if not isinstance(raw, bytes):
        raise ValueError("a storage must be made of bytes")
    file = io.BytesIO(raw)
    if Reader({}).read(file) != MAGIC:
        raise ValueError("it is not a storage")
    return _legacy(file, len(raw)).value


def real(value: Any, name: str, path: str) -> Tensor:
    """Return a tensor of finite float32 numbers or of integers. ValueError, with its name, for anything else."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            native = np.array(value, dtype=value.dtype.newbyteorder("="))
        value = torch.from_numpy(native)
    if not isinstance(value, Tensor):
        kind = value.name if isinstance(value, Skipped) else type(value).__name__
        raise ValueError(f"{path}: {name!r} is a {kind}, not a tensor of plain numbers")
    if value.layout != torch.strided or value.is_complex() or value.is_quantized:
        raise ValueError(f"{path}: {name!r} is a sparse, complex or quantised tensor: plain real numbers are needed")
    if not value.is_floating_point():
        return value.detach()
    value = value.detach().float()
    if not bool(value.isfinite().all()):
        count = int((~value.isfinite()).sum())
        raise ValueError(
            f"{path}: {name} holds {count} values that are not finite: such a network has no useful output"
        )
    return value
