"""Atomic file writes, and operating-system errors that name the file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there, leftover files are not removed
    fcntl = None

PART = ".part"
"""The suffix of a file that is still being written."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make operating-system errors raised inside name this file, if they name none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from None


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` when the block ends; after an error it is deleted.

    A crash at any moment leaves either the complete old file or the complete new one at `path`.
    Temporary files that killed processes left beside `path` are deleted too.

    sync  wait for the disk, so that this also holds after a power failure
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_temporary(path)
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


def _open_temporary(path: Path) -> IO[bytes]:
    """Create a file with a unique name beside `path`, and lock it for as long as it is open.

    The name is random, not the process number: containers that share a folder may have equal process numbers.
    """
    while True:
        part = path.with_name(f"{path.name[:180]}.{secrets.token_hex(6)}{PART}")
        file = open(part, "xb")  # noqa: SIM115 (the caller closes it)
        if _try_lock(file) is not False and part.exists():
            return file
        file.close()  # between creation and locking, another process deleted it as a leftover


def _try_lock(file: IO[bytes]) -> bool | None:
    """Try to lock the file: True if it worked, False if another process has it, None without file locks."""
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
    """Delete the temporary files of killed processes: those that no running process has locked.

    name  delete only the temporary files of the file with this name; empty: of all files
    """
    try:
        parts = [entry.path for entry in os.scandir(folder) if is_part(entry.name, name)]
    except OSError:
        return
    for part in parts:
        with suppress(OSError), open(part, "r+b") as file:
            if _try_lock(file):
                os.unlink(part)


def is_part(entry: str, name: str) -> bool:
    """Return whether a directory entry is the name of a temporary file, of this version or an earlier one."""
    if not entry.endswith(PART):  # the usual case, decided first because folders may have thousands of entries
        return False
    stem, _, mark = entry.removesuffix(PART).rpartition(".")
    temporary = mark.isdecimal() or (len(mark) == 12 and set(mark) <= set("0123456789abcdef"))
    return temporary and (not name or stem == name[:180])


def write_bytes(path: Path, *content: bytes | bytearray | memoryview) -> None:
    """Write the pieces of the content one after the other, atomically."""
    with replacing(path) as file:
        for piece in content:
            file.write(piece)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def append_text(path: Path, text: str) -> None:
    """Append text to a file. It does not wait for the disk: a power failure may lose the text."""
    with naming(path), open(path, "ab") as file:
        file.write(text.encode())


def read_bytes(path: Path, most: int) -> bytearray:
    """Read a file. ValueError if it does not exist or is larger than `most` bytes."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else ""
        raise ValueError(f"{path} {what}: a file is needed" if what else f"there is no file {path}")
    with naming(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{path} has {size:,} bytes, but a file of this kind may have at most {most:,}")
        content = bytearray(size)
        read = file.readinto(content)
        return content[:read] if read < size else content
