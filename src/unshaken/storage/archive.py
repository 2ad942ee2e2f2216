"""Published archives: found packed or unpacked, or downloaded, and read member by member."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from unshaken.storage.cache import stamp
from unshaken.storage.download import checksum, download


@dataclass(frozen=True)
class Archive:
    """A published tar file: its address, its md5, and the name of the folder that it unpacks to."""

    url: str
    md5: str
    folder: str

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    def find(self, root: Path, may_download: bool) -> Path:
        """Return the unpacked folder or the archive, in `root` or one folder below it; else download it if allowed.

        ValueError if it is not there.
        """
        places = [root] if root.resolve().name == self.folder else []  # root may be the unpacked folder itself
        for parent in (root, *sorted(root.glob("*/"))):
            places += [parent / self.folder, parent / self.file_name]
        for location in places:
            if os.path.exists(location):  # Path.exists raises an error in a folder without permission
                return location
        if may_download:
            return download(self.url, root / self.file_name, self.md5)
        raise ValueError(
            f"{root} has neither {self.file_name} nor {self.folder}/: download the archive with --data.download, "
            "or give its folder with --data.root"
        )

    def stamp(self, location: Path, wanted: Collection[str]) -> object:
        """Return a value that changes when one of the wanted files changes."""
        return stamp([location / name for name in wanted] if location.is_dir() else [location])

    def members(self, location: Path, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes], int]]:
        """Iterate over the wanted files as (name, stream, size), in the archive's order, or in that of `wanted`.

        Each stream must be read before the next one is taken. ValueError if a packed archive has another
        md5, or if a file is missing.
        """
        missing = set(wanted)
        found = self._unpacked(location, wanted) if location.is_dir() else self._packed(location, wanted)
        for name, stream, size in found:
            missing.discard(name)
            yield name, stream, size
        if missing:
            raise ValueError(
                f"{location} lacks {', '.join(sorted(missing))}: remove it, and unpack {self.file_name} again"
            )

    def _unpacked(self, location: Path, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes], int]]:
        for path in (location / name for name in wanted):
            if path.is_file():
                with path.open("rb") as stream:
                    yield path.name, stream, path.stat().st_size

    def _packed(self, location: Path, wanted: Collection[str]) -> Iterator[tuple[str, IO[bytes], int]]:
        if (found := checksum(location)) != self.md5:
            raise ValueError(
                f"{location} has md5 {found} instead of {self.md5}, so it is cut short or altered: "
                "remove it, and download it again with --data.download"
            )
        try:
            with tarfile.open(location, "r|*") as tar:  # | reads in one pass: seeking would start over
                for member in tar:
                    name = PurePosixPath(member.name).name
                    if name in wanted and (stream := tar.extractfile(member)) is not None:
                        yield name, io.BufferedReader(_Member(stream, location)), member.size  # pyright: ignore[reportArgumentType]
        except DAMAGE_ERRORS as error:
            raise ValueError(
                f"{location} cannot be read ({error}): remove it, and download it again with --data.download"
            ) from None


DAMAGE_ERRORS = (tarfile.TarError, EOFError, zlib.error, OSError)
"""Errors that a damaged archive raises while it is read."""


class _Member(io.RawIOBase):
    """A file in an archive; its error messages name the archive."""

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self.stream, self.archive, self.position = stream, archive, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: bytearray) -> int:
        try:
            content = self.stream.read(len(buffer))
        except DAMAGE_ERRORS as error:
            raise ValueError(
                f"{self.archive} cannot be read ({error}): remove it, and download it again with --data.download"
            ) from None
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)
