"""`unshaken frontier`: accuracy against speed-up on coresets, and the runs for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.ranges import Share, Whole, ranged
from unshaken.commands.pretrain import on_its_split, remark
from unshaken.compute.runtime import Runtime
from unshaken.options import parse, subject
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.pretrain import Pretrain
from unshaken.report.frontier import draw
from unshaken.report.records import TableOptions
from unshaken.runs.frontier import Frontier, coreset_pair
from unshaken.runs.workspace import Workspace

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class FrontierOptions(TableOptions):
    """Measure what a speed-up of pre-training costs in accuracy: all images, a selector, and random images.

    For each seed and fraction there are three runs: on the images of the selector, on as many random images, and on
    more random images, so that it takes as long as the first run with its selections. Finished runs are not repeated.
    The options of the recipe are those of `unshaken pretrain`; --coreset KCenter takes another selector.
    """

    recipe: Annotated[Pretrain, Flat]
    """Recipe of the pre-training."""
    fractions: tuple[Share, ...] = (0.05, 0.1, 0.2)
    """Fractions of the images that an epoch sees."""
    seeds: tuple[Whole, ...] = (1, 2, 3)
    """Seeds of pre-training and fine-tuning."""
    mode: str = "slf"
    """Mode of fine-tuning: slf, alf or aff."""
    runtime: Runtime = Runtime()
    """Device and precision."""
    runs: Path = Path("runs")
    """Folder of the runs."""
    out: Path = Path("frontier")
    """Name of the files: the figure gets .svg, the table .md."""


def frontier(args: list[str]) -> None:
    shown = FrontierOptions(coreset_pair("acl/cifar10")[0])
    what = "results to draw; or acl/digits, to make its runs first"
    name, rest = subject(args, "frontier", "RUNS or RECIPE", what, shown)
    if name.partition("/")[0] not in RECIPES:
        raise ValueError(f"{name!r} is neither a file or folder of results nor a recipe, such as acl/digits")
    part, whole = coreset_pair(name)
    options = parse(FrontierOptions(part), rest, f"unshaken frontier {name}")
    selector = options.recipe.coreset
    if options.recipe.seed != part.seed or (selector and selector.fraction != part.coreset.fraction):
        raise ValueError("a frontier has several seeds and fractions: --seeds 1 2 3 --fractions 0.1 0.2")
    chosen = on_its_split(options.recipe, part)
    remark(chosen, part)
    plan = Frontier(chosen, whole, options.fractions, options.seeds, options.mode)  # pyright: ignore[reportArgumentType]
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    workspace = Workspace(options.runs, options.runtime, quiet=not sys.stderr.isatty())
    draw(list(plan.run(workspace, tell)), options.out, options)
