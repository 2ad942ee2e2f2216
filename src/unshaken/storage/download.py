"""Downloads of single files: resumed after an interruption, and verified at the end."""

from __future__ import annotations

import sys
from hashlib import file_digest, md5
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from unshaken.base.locks import Busy, Lock
from unshaken.base.progress import progress

SILENCE = 30.0
"""Seconds without a byte after which a download fails."""
LARGEST = 16 * 2**30
"""Bytes after which a download fails. All archives that are downloaded here are smaller."""


def checksum(path: Path) -> str:
    """Return the md5 of a file, which the publishers of these archives give. It finds accidents, not attacks."""
    with path.open("rb") as file:
        return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()


def download(url: str, path: Path, expected: str) -> Path:
    """Download `url` to `path`. ValueError, and no file at `path`, unless it is complete and has the expected md5.

    The file grows as `path`.part, and a second try asks only for the rest. One process at a time downloads a file;
    others wait for it and use its file.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock, url):
            if not (path.exists() and checksum(path) == expected):  # another process may have downloaded it meanwhile
                _download(url, path, expected)
            lock.unlink(missing_ok=True)  # a process that still waits for the lock finds the file
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ValueError(
            f"cannot download {url} ({reason}); try again to continue where it stopped, or put the file at {path}"
        ) from error
    return path


def _locked(lock: Path, url: str) -> Lock:
    """Wait until no other process downloads the file, and return the lock."""
    try:
        return Lock(lock)
    except Busy:
        print(f"another process is downloading {url}; waiting for it", file=sys.stderr, flush=True)
        return Lock(lock, wait=-1)


def _download(url: str, path: Path, expected: str) -> None:
    part = path.with_name(f"{path.name}.part")
    if part.is_symlink():  # the file that it points to must not be written
        part.unlink()
    _fetch(url, part)
    if (found := checksum(part)) != expected:
        part.unlink()
        raise ValueError(
            f"{url} gave a file with md5 {found} instead of {expected}, which was removed; try again, or put the file "
            f"at {path}"
        )
    part.replace(path)


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "unshaken"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=SILENCE)
    except HTTPError as error:
        with error:
            if error.code == 416:  # there is no rest to send: the file is complete, or its checksum will not match
                return
            raise
    with response:
        if response.status != 206:  # the server ignores the range and sends the complete file
            have = 0
        length = response.headers["Content-Length"]
        total = None if length is None else have + int(length)
        megabytes = None if total is None else total / 1e6
        with part.open("ab" if have else "wb") as file, progress(f"downloading {url}", megabytes, "MB") as advance:
            advance(have / 1e6)
            while block := response.read(1 << 18):
                file.write(block)
                if file.tell() > LARGEST:
                    raise OSError(f"it has more than {LARGEST} bytes, which is too many for an image set")
                advance(len(block) / 1e6)
    if total is not None and (size := part.stat().st_size) < total:  # the client library raises no error here
        raise OSError(f"broke off after {size} of {total} bytes")
