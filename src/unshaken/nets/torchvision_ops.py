"""What torchvision, and so timm, needs to be imported beside a torch without CUDA.

Package indices that serve one wheel of torchvision serve the one built for CUDA. Its compiled operators do not load
where torch is a build for CPUs, and its import then stops at describing an operator that nobody has defined
("operator torchvision::nms does not exist"; pytorch/vision, issues 9077 and 9085). Networks use none of them.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.library import Library


@cache  # an operator can be declared once, and only as long as its library lives
def declare_operators() -> Library | None:
    """Declare the operators that torchvision's import expects, without a body: calling one is still an error.

    Nothing is done where they are defined, where torchvision is not installed, and where torch has CUDA (an
    extension that does not load is then a wrong pair of versions, and better said by torchvision).
    """
    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    places = spec.submodule_search_locations if spec else None
    if not places or _torch_has_cuda() or _loads(Path(places[0])):
        return None
    library = Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _torch_has_cuda() -> bool:
    return any((Path(torch.__file__).parent / "lib").glob("*c10_cuda*"))


def _loads(package: Path) -> bool:
    """Loading first is what makes this safe: an operator defined twice would abort the import of a good build."""
    for extension in package.glob("_C*"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            continue
        return True
    return False
