"""One file over the network: resumed where it broke off, verified, and only then given its name."""

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
"""Seconds without a byte after which a server counts as gone."""
MOST = 16 * 2**30
"""Bytes at which a download ends, for no archive that is downloaded here has as many."""


def checksum(path: Path) -> str:
    """The md5 of a file: what the publishers of these archives give. It guards against accidents, not attacks."""
    with path.open("rb") as file:
        return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()


def download(url: str, path: Path, expected: str) -> Path:
    """Bring `url` to `path`, whole and with the expected md5; else a ValueError, and nothing at `path`.

    What has come is kept in `path`.part, and the next try asks only for the rest. One process at a time downloads a
    file: others wait, and find what it has brought.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(lock, url):
            if not (path.exists() and checksum(path) == expected):  # another process may have brought it meanwhile
                _brought(url, path, expected)
            lock.unlink(missing_ok=True)  # whoever still waits for it finds the file
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ValueError(
            f"cannot download {url} ({reason}); try again to go on from where it stopped, or put the file at {path}"
        ) from error
    return path


def _alone(lock: Path, url: str) -> Lock:
    """The lock of a download, once no other process holds it."""
    try:
        return Lock(lock)
    except Busy:
        print(f"another process is downloading {url}; waiting for it", file=sys.stderr, flush=True)
        return Lock(lock, wait=-1)


def _brought(url: str, path: Path, expected: str) -> None:
    part = path.with_name(f"{path.name}.part")
    if part.is_symlink():  # whatever it points to is not ours to write
        part.unlink()
    _fetch(url, part)
    if (found := checksum(part)) != expected:
        part.unlink()
        raise ValueError(
            f"{url} gave a file of md5 {found} instead of {expected}, now removed; try again, or put the file at {path}"
        )
    part.replace(path)


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "unshaken"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=SILENCE)
    except HTTPError as error:
        with error:
            if error.code == 416:  # nothing lies beyond what we have: it is whole, or its checksum will say no
                return
            raise
    with response:
        if response.status != 206:  # the server does not resume, and sends the whole file
            have = 0
        length = response.headers["Content-Length"]
        total = None if length is None else have + int(length)
        megabytes = None if total is None else total / 1e6
        with part.open("ab" if have else "wb") as file, progress(f"downloading {url}", megabytes, "MB") as advance:
            advance(have / 1e6)
            while block := response.read(1 << 18):
                file.write(block)
                if file.tell() > MOST:
                    raise OSError(f"it goes on after {MOST} bytes, and no archive is as long")
                advance(len(block) / 1e6)
    if total is not None and (size := part.stat().st_size) < total:  # the client library ends quietly here
        raise OSError(f"broke off after {size} of {total} bytes")
