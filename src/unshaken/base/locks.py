"""Locks between processes: one at a time works on a file or in a folder; the lock of a killed process is free again"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process holds the lock."""


class Lock:
    """The lock of a file, taken when this is made and held until `close`.

    file  the lock itself, an empty file that stays where it is
    wait  seconds to wait for another process to release it; -1 waits without end
    Raises Busy if another process holds it for longer. ValueError if the file is a link: whoever put it there could
    have us write elsewhere.
    """

    def __init__(self, file: Path, wait: float = 0.0) -> None:
        if file.is_symlink():
            raise ValueError(f"{file} is a link, and the lock of a folder has to be a file of its own: remove the link")
        self._lock = FileLock(file, timeout=wait)
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
