"""Native code: a C file compiled by the system's compiler when it is first needed, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from unshaken.base.atomic_files import replacing
from unshaken.base.checksum import checksum
from unshaken.base.json_files import read_json, write_json
from unshaken.base.locks import Busy, Lock

FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-std=c11", "-fPIC", "-shared"),
)
"""Flags that allow vector instructions of this processor; sums keep their order."""
WAIT = 120.0
"""Seconds that a process waits for another one that compiles the same file."""


class Unavailable(Exception):
    """Native code cannot be used here; the message says why."""


class NativeCode:
    """A C file, and the library that is made of it.

    The library is called by a hash of the source, the flags, the compiler and the processor, so that a change of any of
    them makes a new one. Its checksum is compared before it is loaded.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._loaded: ctypes.CDLL | None = None

    def load(self, build: bool = True) -> ctypes.CDLL:
        """Return the library, compiled if it is not in the cache. Raises Unavailable if it cannot be made.

        build  False: only what is in the cache already
        """
        if self._loaded is None:
            try:
                self._loaded = self._load(build)
            except OSError as error:
                raise Unavailable(f"{error}") from None
        return self._loaded

    @property
    def loaded(self) -> bool:
        return self._loaded is not None

    def require(self, part: str, way: str) -> None:
        """Load the library for a part of a run, or raise a ValueError with the way of computing that needs it."""
        try:
            self.load()
        except Unavailable as reason:
            raise ValueError(
                f"the {part} of this run are computed by compiled code ({way}), which is not possible here: "
                f"{reason}; where it was never used, --runtime.computation without {way} goes without it"
            ) from None

    def _load(self, build: bool) -> ctypes.CDLL:
        compiler, folder = compiler_here(), own_folder()
        name = f"{self.source.stem}-{self._key(compiler)}"
        library, record = folder / f"{name}.so", folder / f"{name}.json"
        if not _whole(library, record):
            if not build:
                raise Unavailable("it is not compiled yet")
            try:
                with Lock(folder / f"{name}.lock", WAIT):
                    if not _whole(library, record):
                        self._build(compiler, library, record)
            except Busy:
                raise Unavailable("another process is compiling it") from None
        return ctypes.CDLL(str(library))

    def _key(self, compiler: str) -> str:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
        parts = (self.source.read_bytes(), " ".join(FLAGS).encode(), compiler.encode(), version, _processor())
        return checksum(part + b"\0" for part in parts)[:16]

    def _build(self, compiler: str, library: Path, record: Path) -> None:
        with tempfile.TemporaryDirectory() as place:
            made = Path(place) / "made.so"
            done = subprocess.run(
                [compiler, *FLAGS, str(self.source), "-o", str(made), "-lm"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode or not made.exists():
                first = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
                raise Unavailable(f"{compiler} failed: {first}")
            code = made.read_bytes()
        write_json(record, {"library": checksum([code])})
        with replacing(library) as file:
            file.write(code)


def compiler_here() -> str:
    """Return the path of a C compiler: $CC, cc, gcc or clang. Raises Unavailable if there is none."""
    if os.name != "posix":
        raise Unavailable("it is compiled on Linux and macOS only")
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise Unavailable("there is no C compiler here (cc)")


def own_folder() -> Path:
    """Return the cache folder of libraries. Raises Unavailable unless it is this user's and nobody else can write."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unshaken" / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise Unavailable(f"{folder} has to be a folder of yours that nobody else can write to: chmod 700 {folder}")
    return folder


def _whole(library: Path, record: Path) -> bool:
    """Return whether the library is there, this user's, and has the checksum that was noted when it was made."""
    if not library.exists() or not record.exists() or library.is_symlink() or library.stat().st_uid != os.getuid():
        return False
    try:
        return read_json(record, {"library": str})["library"] == checksum([library.read_bytes()])
    except ValueError:
        return False


def _processor() -> bytes:
    """Return what the system says about the processor's kind: -march=native makes code for this one alone."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return "\n".join([platform.machine(), platform.system(), *kind]).encode()
