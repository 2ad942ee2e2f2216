"""One file over the network: resumed where it broke off, verified, and only then given its name."""

from __future__ import annotations

from hashlib import file_digest, md5
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from unshaken.base.progress import progress

SILENCE = 30.0
"""Seconds without a byte after which a server counts as gone."""


def checksum(path: Path) -> str:
    """The md5 of a file: what the publishers of these archives give. It guards against accidents, not attacks."""
    with path.open("rb") as file:
        return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()


def download(url: str, path: Path, expected: str) -> Path:
    """Bring `url` to `path`, whole and with the expected md5; else a ValueError, and nothing at `path`.

    What has come is kept in `path`.part, and the next try asks only for the rest.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise ValueError(
            f"cannot download {url} ({reason}); try again to go on from where it stopped, or put the file at {path}"
        ) from error
    if (found := checksum(part)) != expected:
        part.unlink()
        raise ValueError(
            f"{url} gave a file of md5 {found} instead of {expected}, now removed; try again, or put the file at {path}"
        )
    return part.replace(path)


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
                advance(len(block) / 1e6)
    if total is not None and (size := part.stat().st_size) < total:  # the client library ends quietly here
        raise OSError(f"broke off after {size} of {total} bytes")
