"""Locks on files and folders between processes; the lock of a killed process is released."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process holds the lock."""


class Lock:
    """A lock file, acquired on construction and held until `close`.

    file   the lock file, which is empty and is not deleted
    wait   seconds to wait for another process to release the lock; -1 waits forever
    again  this process may acquire the lock again while it holds it
    Raises Busy if another process holds the lock for longer. Raises ValueError if the file is a symbolic link, because
    a link could redirect what we write.
    """

    def __init__(self, file: Path, wait: float = 0.0, again: bool = False) -> None:
        if file.is_symlink():
            raise ValueError(f"{file} is a link, but a lock must be a regular file: remove the link")
        self._lock = FileLock(file.absolute(), timeout=wait, thread_local=False, is_singleton=again)
        try:
            self._lock.acquire(poll_interval=0.1)
        except Timeout:
            raise Busy(str(file)) from None

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
