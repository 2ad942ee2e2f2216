"""The computation of a run: that of its first command, or chosen by a trial before the first step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unshaken.base.distributed import processes
from unshaken.base.json_files import read_json
from unshaken.compute.runtime import Runtime
from unshaken.compute.trials import SECONDS
from unshaken.compute.ways import FIXED
from unshaken.data.images import Images
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.workspace import Workspace
from unshaken.train.computation_trial import Training, chosen_computation, fixed_computation
from unshaken.train.run_dir import RECIPE_FILE


def settled(workspace: Workspace, folder: Path, training: Callable[[], Training | None]) -> Workspace:
    """Return the workspace with what its runtime leaves open decided: the precision and the ways of computing.

    folder    of the run. If it was begun, its recipe.json says what was decided then, and nothing is timed again
    training  the work of the run; None: it takes the fixed ways

    Of several processes the first one decides for all.
    """
    runtime = workspace.runtime
    if runtime.settled:
        return workspace
    decided = processes().first(lambda: _decided(runtime, folder / "recipe.json", training, workspace.quiet))
    return replace(workspace, runtime=decided)


def _decided(runtime: Runtime, file: Path, training: Callable[[], Training | None], quiet: bool) -> Runtime:
    if file.exists():
        return as_begun(runtime, read_json(file, RECIPE_FILE)["data"])
    work = training()
    if work is None:
        return fixed_computation(runtime)
    chosen, line = chosen_computation(work, runtime)
    if line and not quiet:
        print(line, file=sys.stderr)
    return chosen


def as_begun(runtime: Runtime, identity: dict[str, Any]) -> Runtime:
    """Return the runtime with what it leaves open as in the identity of a run, in which fixed ways are not named."""
    precision = identity.get("precision", runtime.precision) if runtime.by_trial else runtime.precision
    ways = runtime.computation if runtime.computation != ("auto",) else tuple(identity.get("computation", FIXED))
    return replace(runtime, precision=precision, computation=ways)


def training_of(recipe: Pretrain, count: int, shape: tuple[int, ...]) -> Training:
    """Return the work of a pre-training on so many images of a shape (C, H, W)."""
    net = recipe.build_network((2,) * len(recipe.clusters) or ((10,) if recipe.method.labels == "true" else ()))
    return Training(net, recipe.method, passes_of(recipe) * count, recipe.batch_size, tuple(shape), recipe.views)  # pyright: ignore[reportArgumentType]


def passes_of(recipe: Pretrain) -> float:
    """Return the passes over all images, without those of the selections."""
    chosen = recipe.coreset
    if chosen is None or getattr(chosen, "warmup", recipe.epochs) >= recipe.epochs:
        return recipe.epochs
    return chosen.warmup + chosen.fraction * (recipe.epochs - chosen.warmup)


def with_computation(
    recipe: Pretrain, images: Images, runtime: Runtime, count: int | None = None, limit: float = SECONDS
) -> tuple[Runtime, list[str]]:
    """Return the runtime as a new run of the recipe would choose it, and a line about that, if there was a trial.

    count  the number of images, if these are only some of them
    """
    if runtime.settled:
        return runtime, []
    work = training_of(recipe, count or len(images), images.pixels.shape[1:])
    chosen, line = chosen_computation(work, runtime, limit)
    return chosen, [line] if line else []
