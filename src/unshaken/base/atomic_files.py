"""Files that are whole or absent: atomic writes, and errors of the system that name their file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # a system without it has no leftovers removed
    fcntl = None

PART = ".part"
"""The end of the name of a file that is not whole yet."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system that names no file becomes one that names this file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from None


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file to write into, which takes the place of `path` at the end; after an error there is no trace of it.

    After a crash at any moment `path` is the old file or the new one, whole. What a process that was killed has left
    beside `path` is removed.

    sync  wait for the disk, so that this holds after a power failure too
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _part_of(path)
        part = Path(file.name)
        try:
            with file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
                os.replace(part, path)  # while the lock is held
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        sweep(path.parent, path.name)


def _part_of(path: Path) -> IO[bytes]:
    """A new file beside `path` under a name of its own, locked for as long as it is open.

    A process number does not make a name unique: containers that share a folder count processes on their own.
    """
    while True:
        part = path.with_name(f"{path.name[:180]}.{secrets.token_hex(6)}{PART}")
        file = open(part, "xb")  # noqa: SIM115 (the caller closes it)
        if _locked(file) is not False and part.exists():
            return file
        file.close()  # another process took it for a leftover just as it was made


def _locked(file: IO[bytes]) -> bool | None:
    """Whether the lock of the file is ours now; None if the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def sweep(folder: Path, name: str = "") -> None:
    """Remove what killed processes have left of their writing: files that no living process has locked.

    name  of the file whose leftovers are meant; those of all files if it is empty
    """
    try:
        parts = [entry.path for entry in os.scandir(folder) if is_part(entry.name, name)]
    except OSError:
        return
    for part in parts:
        with suppress(OSError), open(part, "r+b") as file:
            if _locked(file):
                os.unlink(part)


def is_part(entry: str, name: str) -> bool:
    """Whether an entry is called as `_part_of` calls the parts of a file, or as earlier versions did."""
    if not entry.endswith(PART):  # as almost all are not, in a folder of thousands
        return False
    stem, _, mark = entry.removesuffix(PART).rpartition(".")
    known = mark.isdecimal() or (len(mark) == 12 and set(mark) <= set("0123456789abcdef"))
    return known and (not name or stem == name[:180])


def write_bytes(path: Path, *content: bytes | bytearray | memoryview) -> None:
    """Write all pieces of the content, atomically."""
    with replacing(path) as file:
        for piece in content:
            file.write(piece)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def append_text(path: Path, text: str) -> None:
    """Add text at the end of a file. It is not forced to the disk: a power failure may take it."""
    with naming(path), open(path, "ab") as file:
        file.write(text.encode())


def read_bytes(path: Path, most: int) -> bytearray:
    """What a file holds. ValueError if there is no such file, or if it is larger than `most` bytes."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no ordinary file" if path.exists() else ""
        raise ValueError(f"{path} {what}: a file is needed" if what else f"there is no file {path}")
    with naming(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{path} has {size:,} bytes, and a file of its kind has at most {most:,}")
        content = bytearray(size)
        read = file.readinto(content)
        return content[:read] if read < size else content
