"""A workaround for importing torchvision, and thus timm, beside a torch without CUDA.

The wheel of torchvision on package indices is often the one built for CUDA. Its compiled operators do not load beside a
CPU build of torch, and its import then fails because an operator is not defined ("operator torchvision::nms does not
exist"; pytorch/vision, issues 9077 and 9085). Our networks use none of these operators.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.library import Library


@cache  # an operator can be declared only once, and exists only as long as its library object
def declare_operators() -> Library | None:
    """Declare the operators that torchvision's import expects, without a body: calling one is still an error.

    Nothing is done if they are defined already, if torchvision is not installed, or if torch has CUDA. In the last case
    an extension that does not load means mismatched versions, which torchvision's own error explains better.
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
    """Try to load torchvision's operators. In a working build, declaring them again would abort the import."""
    for extension in package.glob("_C*"):
        try:
            torch.ops.load_library(extension)
        except OSError:
            continue
        return True
    return False
