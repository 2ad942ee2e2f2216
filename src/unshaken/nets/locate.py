"""Models by name: a run, a file, a folder for a hub, or OWNER/NAME on the Hugging Face Hub"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from unshaken.base.safe_text import printable

REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = ["model.safetensors", "config.json", "README.md"]
"""The files of a model that are downloaded from a hub: no code, and nothing that could run."""
LIBRARIES = ("timm/", "torchvision/")
"""How the names of published networks begin."""


def is_repo(name: str | Path) -> bool:
    """Return whether a name can only be a repository on a hub: OWNER/NAME, and no folder OWNER is here."""
    word, owner = str(name), Path(str(name)).parent
    if not REPO.fullmatch(word) or word.startswith((*LIBRARIES, "runs/", "demo/")):
        return False
    return not Path(word).exists() and not owner.exists()


def locate(name: str | Path, revision: str | None = None) -> Path:
    """Return the path of a model: the name itself, or the downloaded folder of OWNER/NAME on the Hub.

    revision  branch, tag or commit of the repository
    """
    return download(str(name), revision) if is_repo(name) else Path(name).expanduser()


def home_of(name: str | Path) -> Path:
    """Return the folder for what is made from a model: its own, or runs/OWNER-NAME for a repository."""
    if is_repo(name):
        return Path("runs") / str(name).replace("/", "-")
    path = Path(name).expanduser()
    return path if path.is_dir() else path.parent


def download(repo: str, revision: str | None = None) -> Path:
    """Download a model from the Hugging Face Hub into its cache, and return the folder.

    ValueError, in one line, if there is no such repository, or no network.
    """
    if find_spec("huggingface_hub") is None:
        raise ValueError(
            f"there is no file or folder {repo}, and to look for it on the Hugging Face Hub needs huggingface_hub: "
            "pip install 'unshaken[hub]'"
        )
    import huggingface_hub

    print(f"{repo} is looked for on the Hugging Face Hub, because there is no such path here", file=sys.stderr)
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=FILES))
    except Exception as error:  # the type of a network error depends on the version of huggingface_hub
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ValueError(f"there is no path {repo} here, and the Hub gave none: {printable(lines[0])[:300]}") from None
