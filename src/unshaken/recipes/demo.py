"""The demo: what the field claims, on scikit-learn's digits, in minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unshaken.recipes.examine import examine
from unshaken.recipes.finetune import MODES, protocol
from unshaken.recipes.papers import recipe
from unshaken.train.runtime import Runtime

METHODS = ("simclr", "acl", "acl-air")


def demo(
    root: Path,
    runtime: Runtime,
    methods: tuple[str, ...] = METHODS,
    modes: tuple[str, ...] = MODES,
    tell: Callable[[str], None] = lambda _: None,
    quiet: bool = True,
) -> Iterator[dict[str, Any]]:
    """Pre-train by each method, fine-tune by each mode, examine: one result after the other.

    Everything lies under `root` and is found again there, so a demo that was stopped goes on.
    """
    for method in methods:
        tell(f"{method}: pre-training without labels")
        encoder = recipe(f"{method}/digits").run(root, runtime, quiet=quiet)
        for mode in modes:
            tell(f"{method}: {mode.upper()}")
            run = protocol(mode, encoder).run(encoder, runtime=runtime, quiet=quiet)
            result = examine(run, runtime=runtime, quiet=quiet)
            standard, robust = result["standard"], result["robust"]
            tell(f"{method}: {mode.upper()}  SA {standard['percent']:.1f} %  RA {robust['percent']:.1f} %")
            yield result
