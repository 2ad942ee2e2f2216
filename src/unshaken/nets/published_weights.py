"""Published weights of timm and torchvision: download, hash check, and safe reading."""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from unshaken.base.safe_text import printable
from unshaken.nets.torch_files import read_safetensors, read_torch

TIMEOUT = 10
"""Seconds to wait for a server's answer."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""The names of weight files in timm's repositories; the first that exists is used."""


def from_url(url: str, name: str) -> dict[str, Any]:
    """Read weights from PyTorch's servers or from torch's cache. ValueError, in one line, if they cannot be had."""
    return read_weights(file_of(url, name))


def file_of(url: str, name: str) -> Path:
    """Return a file of weights from PyTorch's servers, in torch's cache. ValueError, in one line, if it cannot be had.

    The file's name ends in the first digits of its SHA-256, which are checked on every reading.
    """
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name
    stated = re.search(r"-([0-9a-f]{8,64})\.", file.name)
    if not file.is_file():
        print(f"fetching {url}", file=sys.stderr)
        file.parent.mkdir(parents=True, exist_ok=True)
        with _fetching(name, urlparse(url).netloc):
            torch.hub.download_url_to_file(url, str(file), stated[1] if stated else None, progress=sys.stderr.isatty())
    _check(file, stated[1] if stated else "")
    return file


def from_hub(repository: str, name: str, file: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """Read weights from a Hugging Face Hub repository or its cache. ValueError, in one line, if they cannot be had."""
    return read_weights(hub_file(repository, name, (file,) if file else FILES, revision))


def hub_file(repository: str, name: str, wanted: tuple[str, ...], revision: str | None = None) -> Path:
    """Return the first of these files that a Hugging Face Hub repository has, from its cache or downloaded now.

    ValueError, in one line, if it cannot be had, or if a file with a hash for a name has another content.
    """
    if find_spec("huggingface_hub") is None:
        raise ValueError(f"{name} needs huggingface_hub: pip install 'unshaken[hub]'")
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.file_download import get_hf_file_metadata

    cached = [try_to_load_from_cache(repository, each, revision=revision) for each in wanted]
    found = next((Path(each) for each in cached if isinstance(each, str)), None)
    for each in wanted if found is None else ():
        with _fetching(name, urlparse(ENDPOINT).netloc, EntryNotFoundError):
            # one quick request first: without a network, the download itself would retry for a minute
            get_hf_file_metadata(hf_hub_url(repository, each, revision=revision), timeout=TIMEOUT)
            print(f"fetching {repository}/{each} from {urlparse(ENDPOINT).netloc}", file=sys.stderr)
            found = Path(hf_hub_download(repository, each, revision=revision))
            break
    if found is None:
        raise ValueError(f"the weights of {name} are not available: {repository} has none of {', '.join(wanted)}")
    blob = found.resolve().name
    _check(found, blob if re.fullmatch(r"[0-9a-f]{64}", blob) else "")
    return found


@contextmanager
def _fetching(name: str, server: str, absent: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turn a library's network errors into a one-line ValueError; ignore `absent`, a file missing on the server."""
    logger = logging.getLogger("huggingface_hub")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    except absent:
        pass
    except Exception as error:  # the exception types differ between libraries and their versions
        reason = printable((str(error).splitlines() or [type(error).__name__])[0], 120)
        raise ValueError(
            f"the weights of {name} are not available: they are not on this machine, and the download from {server} "
            f"failed ({reason})"
        ) from None
    finally:
        logger.disabled = before


def _check(file: Path, digits: str) -> None:
    """Raise a ValueError if a file's SHA-256 does not begin with these digits."""
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if not found.startswith(digits):
        raise ValueError(
            f"{file} is damaged or another file: by its name its SHA-256 begins with {digits[:16]}, but it is "
            f"{found[:16]}. Remove it, and the next run downloads it again"
        )


def read_weights(file: Path) -> dict[str, Any]:
    """Read tensors by name, possibly nested in a dictionary. ValueError if the file holds something else."""
    if file.suffix == ".safetensors":
        return read_safetensors(file)[0]
    found = read_torch(file).value
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a {printable(type(found).__name__)}, not weights by name")
    return found
