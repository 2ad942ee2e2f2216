"""Files that torch.save, pickle or safetensors wrote elsewhere: their values and tensors, with nothing in them run."""

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
"""What torch.save of before 1.6 writes first, as a pickle of its own."""
SWOLLEN = 16
"""How many times its own size a zip file may unpack to. torch.save packs nothing."""
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
    """What a file holds.

    value    as the file nests it: dictionaries, lists, tensors, NumPy arrays, numbers, text, and Skipped objects
    skipped  the classes and functions that it names and that were not looked up
    """

    value: Any
    skipped: tuple[str, ...]


def read_torch(path: Path) -> Content:
    """A file of torch.save, zipped or of before 1.6, or a pickle of Python itself. ValueError in one line if broken."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return _zipped(file, size) if zipped else _plain(file, size)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is cut short or damaged ({printable(error)}): take another copy") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a broken or encrypted file may raise anything
        raise ValueError(f"{path} cannot be read as weights ({printable(error)}): take another copy") from None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file of anybody's: its tensors, and the text in its header."""
    check_own(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"{path} is not a whole safetensors file ({reason}): take another copy") from None


def _zipped(file: IO[bytes], size: int) -> Content:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > SWOLLEN * size:
            raise ValueError(f"it says that it unpacks to {total:,} bytes")
        if damaged := archive.testzip():  # which compares the checksum of every member
            raise zipfile.BadZipFile(f"the checksum of {damaged[:60]} is not that of what it holds")
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
        raise ValueError(f"{len(raw)} bytes lie where {count} numbers were announced")
    return torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _plain(file: IO[bytes], size: int) -> Content:
    """Several pickles and then the numbers; or one pickle alone, of arrays or of tensors that lie within it."""
    first = _Loading(None).content(file)
    return _legacy(file, size) if first.value == MAGIC else first


def _legacy(file: IO[bytes], size: int) -> Content:
    storages: dict[str, Tensor] = {}

    def announced(key: str, count: int, dtype: torch.dtype) -> Tensor:
        """Memory for numbers that come after the pickle; for no more of them than the file can hold."""
        total = sum(storage.nbytes for storage in storages.values()) + count * dtype.itemsize
        if total > size:
            raise ValueError("it announces more numbers than it holds")
        storages[key] = torch.zeros(count, dtype=dtype)
        return storages[key]

    loading = _Loading(announced)
    for _ in ("version", "system"):
        Reader({}).read(file)
    content = loading.content(file)
    keys = Reader({}).read(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("its numbers are not those that it announced")
    for key in keys:
        count, room = int.from_bytes(file.read(8), "little"), storages[key]
        raw = file.read(room.nbytes)
        if count != len(room) or len(raw) != room.nbytes:
            raise ValueError("it is cut short")
        room.copy_(_stored(raw, count, room.dtype))
    return content


class _Loading:
    """One pickle with tensors. `fetch` gives the numbers of a storage: by its key, how many they are, and their type.

    key      of a storage to its numbers, which several tensors may share
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
        self.reader = Reader(builders, _known, self.persistent if fetch else None)

    def content(self, stream: IO[bytes]) -> Content:
        value = self.reader.read(stream)
        return Content(value, tuple(self.reader.skipped))

    def persistent(self, what: Any) -> Any:
        kind, *parts = what if isinstance(what, tuple) and what else (None,)
        if kind == "module" and parts:
            return parts[0]
        if kind != "storage" or len(parts) < 4:
            raise ValueError("it refers to what is no storage")
        name, key, _, count, *of = parts
        dtype = STORAGES.get(name.name) if isinstance(name, Named) else None
        if dtype is None:
            return Skipped(str(name))
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("a storage has a key and a size")
        if key not in self.storages:
            self.storages[key] = self.fetch(key, count, dtype)
        return _part(self.storages[key], of[0] if of else None)


def _part(storage: Tensor, of: Any) -> Tensor:
    """Of a view in a file of before 0.4: where in the storage it begins, and how long it is."""
    if of is None:
        return storage
    _, start, count = of
    if not 0 <= start <= start + count <= len(storage):
        raise ValueError("a storage ends outside of what it is a part of")
    return storage[start : start + count]


def _known(name: Named) -> bool:
    module, word = name
    if module in ("builtins", "__builtin__"):
        return word in ("dict", "list", "tuple", "set", "int", "float", "str", "bool")
    return (module in ("torch", "torch.storage") and word in STORAGES) or (module == "torch" and word in DTYPES)


def view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A tensor on the numbers of a storage. ValueError if it reaches out of it, or has more entries than it has."""
    if not isinstance(storage, Tensor) or storage.ndim != 1 or len(size) != len(stride) or len(size) > MOST_AXES:
        raise ValueError("a tensor has a storage, and as many strides as sizes")
    if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise ValueError("sizes and strides are whole numbers")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    if last >= max(len(storage), 1) or count > len(storage):
        raise ValueError("a tensor reaches out of its storage")
    return storage.as_strided(size, stride, offset) if count else storage.new_empty(size)


def _typed(storage: Tensor, offset: int, size: Any, stride: Any, _: Any, hooks: Any, kind: Any, *more: Any) -> Tensor:
    dtype = DTYPES[kind.name]
    if len(storage) % dtype.itemsize:
        raise ValueError("a storage holds whole numbers of its type")
    return view(storage.view(dtype), offset, size, stride)


def _within(raw: bytes) -> Any:
    """A storage that torch.save wrote into the pickle."""
    if not isinstance(raw, bytes):
        raise ValueError("a storage is made of bytes")
    file = io.BytesIO(raw)
    if Reader({}).read(file) != MAGIC:
        raise ValueError("it is no storage")
    return _legacy(file, len(raw)).value


def real(value: Any, name: str, path: str) -> Tensor:
    """A tensor of finite numbers in float32, or of whole numbers. ValueError that names it for anything else."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            native = np.array(value, dtype=value.dtype.newbyteorder("="))
        value = torch.from_numpy(native)
    if not isinstance(value, Tensor):
        kind = value.name if isinstance(value, Skipped) else type(value).__name__
        raise ValueError(f"{path}: {name!r} is a {kind}, not a tensor of plain numbers")
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
