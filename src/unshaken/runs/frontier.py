"""The runs of a frontier: all images, a selector, and random images at equal size or cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unshaken.base.json_files import read_json
from unshaken.base.ranges import Share, Whole, ranged
from unshaken.coreset.cost import matched
from unshaken.coreset.selector import All, Random, Selector
from unshaken.recipes.catalog import RECIPES, recipe
from unshaken.recipes.datasets import DATASETS, defaults_for
from unshaken.recipes.finetune import MODES
from unshaken.recipes.on_coresets import rcs
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.evaluate import evaluate
from unshaken.runs.finetune import finetune, finetune_recipe
from unshaken.runs.pretrain import pretrain
from unshaken.runs.workspace import Workspace
from unshaken.train.image_sets import load_labelled
from unshaken.train.run_dir import RUN_FILE


@dataclass(frozen=True)
@ranged
class Frontier:
    """The runs to compare.

    part   the recipe on coresets, with the selector to compare; its fraction is replaced by each of `fractions`
    whole  the name of the same recipe on all images
    mode   the mode of fine-tuning: slf, alf, aff
    """

    part: Pretrain
    whole: str
    fractions: tuple[Share, ...] = (0.05, 0.1, 0.2)
    seeds: tuple[Whole, ...] = (1,)
    mode: str = "slf"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"there is no mode {self.mode!r}; there are {', '.join(MODES)}, one figure each")
        if not self.fractions or not self.seeds:
            raise ValueError("a frontier takes one or more fractions and one or more seeds")
        if len({*self.fractions}) < len(self.fractions) or len({*self.seeds}) < len(self.seeds):
            raise ValueError("each fraction and each seed is given once")
        if self.part.coreset is None or isinstance(self.part.coreset, (All, Random)):
            raise ValueError("all images and random images are compared in any case: name a selector, such as RCS")
        if self.part.coreset.warmup >= self.part.epochs:
            raise ValueError(
                f"nothing is selected in {self.part.epochs} epochs of which {self.part.coreset.warmup} are warm-up: "
                "choose more --epochs, or a lower --coreset.warmup"
            )
        for fraction in self.fractions:
            replace(self.part.coreset, fraction=fraction)  # raises ValueError for a wrong fraction

    def run(self, workspace: Workspace, tell: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any]]:
        """Pre-train, fine-tune and evaluate each run, or find it in the workspace, and yield its result."""
        load_labelled(self.part.data, self.part.backbone)  # fails now if there are no labels, and not after hours
        for seed in self.seeds:
            part = replace(self.part, seed=seed)
            measure = lambda chosen, what: self._measured(chosen, what, workspace, tell)  # noqa: E731
            yield measure(replace(part, name=self.whole, coreset=None), "all images")[1]
            for fraction in self.fractions:
                selector = replace(part.coreset, fraction=fraction)  # pyright: ignore[reportArgumentType]
                at_random = Random(fraction, selector.warmup, selector.every, selector.validation)
                name = type(selector).__name__
                run, result = measure(replace(part, coreset=selector), f"{name} {fraction:g}")
                yield result
                yield measure(replace(part, coreset=at_random), f"Random {fraction:g}")[1]
                cost = self.random_fraction_at_cost(selector, run)
                chosen = replace(part, coreset=replace(at_random, fraction=cost))
                yield measure(chosen, f"Random {cost:g}, at the cost of {name} {fraction:g}")[1]

    def random_fraction_at_cost(self, selector: Selector, run: Path) -> float:
        """Return the fraction of random images at the cost of a finished run. It is fixed by the run."""
        spent = read_json(run / "run.json", RUN_FILE).get("spent")
        if spent is None:
            raise ValueError(
                f"{run} does not have the seconds of its selections, as an older version made it; move it away, or "
                "choose another --runs"
            )
        return matched(selector.fraction, selector.warmup, self.part.epochs, spent)

    def _measured(
        self, chosen: Pretrain, what: str, workspace: Workspace, tell: Callable[[str], None]
    ) -> tuple[Path, dict[str, Any]]:
        """Return the pre-training run, and the result of the classifier on it."""
        tell(f"seed {chosen.seed}, {what}")
        encoder, beside = pretrain(chosen, workspace), replace(workspace, root=None)
        tuned = finetune(encoder, replace(finetune_recipe(encoder, self.mode), seed=chosen.seed), beside)
        result = evaluate(tuned, workspace=beside)
        standard, robust = result["standard"], result["robust"]
        tell(f"seed {chosen.seed}, {what}: SA {standard['percent']:.1f} %  RA {robust['percent']:.1f} %")
        return encoder, result  # pyright: ignore[reportReturnType]


def coreset_pair(name: str) -> tuple[Pretrain, str]:
    """Return a recipe on coresets, and the name of the same recipe on all images.

    acl/digits and acl-rcs/digits are one pair, whichever of the two is named. A method whose paper has no coresets gets
    RCS, under its own name.
    """
    chosen = recipe(name)
    if not isinstance(chosen, Pretrain):
        raise ValueError(f"{name} selects no images; name the recipe that it starts from, {chosen.teacher}")
    data = name.partition("/")[2] or "cifar10"
    offered = DATASETS[data].methods or RECIPES
    recipes = [recipe(f"{method}/{data}") for method in RECIPES if method in offered]
    same = [other for other in recipes if isinstance(other, Pretrain) and other.method == chosen.method]
    whole = next((other.name for other in same if other.coreset is None), chosen.name)
    part = next((other for other in same if other.coreset is not None), None)
    return part or replace(chosen, coreset=rcs(defaults_for(chosen.data), chosen.epochs)), whole
