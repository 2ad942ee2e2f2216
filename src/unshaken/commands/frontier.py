"""`unshaken frontier RECIPE`: the runs that a frontier needs and that are not there yet, and its figure."""

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
from unshaken.runs.frontier import Frontier, coreset_pair
from unshaken.runs.workspace import Workspace

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class FrontierOptions:
    """What a speed-up of pre-training costs in accuracy: all images, a selector, and chance.

    For every seed and fraction a run on what the selector picks, one on as many images by chance, and one on so many by
    chance that it takes as long as the first, selections included. Runs that are there are found again. Every field of
    the recipe is an option, as of `unshaken pretrain`; --coreset KCenter exchanges the selector.
    """

    recipe: Annotated[Pretrain, Flat]
    fractions: tuple[Share, ...] = (0.05, 0.1, 0.2)
    seeds: tuple[Whole, ...] = (1, 2, 3)
    """Of pre-training and of fine-tuning."""
    mode: str = "slf"
    """Of fine-tuning: slf, alf, aff."""
    runtime: Runtime = Runtime()
    runs: Path = Path("runs")
    """Under which folder the runs are looked for and made."""
    out: Path = Path("frontier")
    """The figure goes into a file of this name and .svg, the table into one with .md."""


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
    draw(list(plan.run(workspace, tell)), options.out)
