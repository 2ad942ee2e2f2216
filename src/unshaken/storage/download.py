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

TIMEOUT = 30.0
"""Seconds without a byte after which a download fails."""
MAX_BYTES = 16 * 2**30
"""A download fails beyond this many bytes: every archive that is downloaded here is smaller."""


def checksum(path: Path) -> str:
    """Return the md5 of a file, the checksum that publishers give. It detects damage, not tampering."""
    with path.open("rb") as file:
        return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()


def download(url: str, path: Path, expected: str) -> Path:
    """Download `url` to `path`, which then is complete and has the expected md5. ValueError otherwise.

    The file grows as `path`.part, and a second call asks only for the rest. Processes that want the same file wait for
    the first one, and use what it has downloaded.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock, url):
            # another process may have downloaded it meanwhile; a file with another md5 is replaced
            if not (path.exists() and checksum(path) == expected):
                _fetch_and_verify(url, path, expected)
            lock.unlink(missing_ok=True)  # safe: a process that waits, or makes a new lock, finds the complete file
    except (OSError, HTTPException) as error:
        # a URLError has a reason, and some errors have no text
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ValueError(
            f"cannot download {url} ({reason}); try again (what has arrived is kept), or put the file at {path}"
        ) from error
    return path


def _locked(lock_path: Path, url: str) -> Lock:
    """Wait until no other process downloads the file, and return the lock."""
    try:
        return Lock(lock_path)
    except Busy:
        print(f"another process is downloading {url}; waiting for it", file=sys.stderr, flush=True)
        return Lock(lock_path, wait=-1)  # without limit


def _fetch_and_verify(url: str, path: Path, expected: str) -> None:
    part = path.with_name(f"{path.name}.part")
    if part.is_symlink():  # do not write through the link
        part.unlink()
    _append_rest(url, part)
    if (found := checksum(part)) != expected:
        part.unlink()
        raise ValueError(
            f"{url} gave a file with md5 {found} instead of {expected}. The file was removed; try again, or put the "
            f"right one at {path}"
        )
    part.replace(path)


def _append_rest(url: str, part: Path) -> None:
    """Append the rest of a file to what has arrived of it."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "unshaken"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416:  # no such range: nothing is left to send; the checksum tells if the file is right
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
                if file.tell() > MAX_BYTES:
                    raise OSError(f"it has more than {MAX_BYTES:,} bytes, too many for an image set")
                advance(len(block) / 1e6)
    if total is not None and (size := part.stat().st_size) < total:  # read(n) raises no IncompleteRead
        raise OSError(f"broke off after {size} of {total} bytes")
