"""The runs of a frontier: all images, a selector at several fractions, and chance at the same and at the same cost."""

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
from unshaken.train.run_dir import ENDED


@dataclass(frozen=True)
@ranged
class Frontier:
    """Which runs to compare.

    part   the recipe on coresets; its selector is compared, whatever its fraction
    whole  the name of the same recipe on all images
    mode   of fine-tuning: slf, alf, aff
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
            raise ValueError("all images and images by chance are in the comparison anyhow: name a selector, RCS say")
        if self.part.coreset.warmup >= self.part.epochs:
            raise ValueError(
                f"nothing is selected in {self.part.epochs} epochs of which {self.part.coreset.warmup} are warm-up: "
                "choose more --epochs, or a lower --coreset.warmup"
            )
        for fraction in self.fractions:
            replace(self.part.coreset, fraction=fraction)  # which says what is wrong with one

    def run(self, workspace: Workspace, tell: Callable[[str], None] = lambda _: None) -> Iterator[dict[str, Any]]:
        """One result after the other: pre-trained, fine-tuned and examined, or found in the workspace, where all lie."""
        load_labelled(self.part.data, self.part.backbone)  # without labels nothing could be judged in the end
        for seed in self.seeds:
            part = replace(self.part, seed=seed)
            judge = lambda chosen, what: self._judged(chosen, what, workspace, tell)  # noqa: E731
            yield judge(replace(part, name=self.whole, coreset=None), "all images")[1]
            for fraction in self.fractions:
                selector = replace(part.coreset, fraction=fraction)  # pyright: ignore[reportArgumentType]
                by_chance = Random(fraction, selector.warmup, selector.every, selector.validation)
                name = type(selector).__name__
                run, result = judge(replace(part, coreset=selector), f"{name} {fraction:g}")
                yield result
                yield judge(replace(part, coreset=by_chance), f"Random {fraction:g}")[1]
                dear = self.as_dear(selector, run)
                chosen = replace(part, coreset=replace(by_chance, fraction=dear))
                yield judge(chosen, f"Random {dear:g}, at the cost of {name} {fraction:g}")[1]

    def as_dear(self, selector: Selector, run: Path) -> float:
        """The fraction by chance at the cost of a finished run: as long as that run lies there, the same."""
        spent = read_json(run / "run.json", ENDED).get("spent")
        if spent is None:
            raise ValueError(
                f"{run} does not say what its selections took, as an older version made it; move it away, or choose "
                "another --runs"
            )
        return matched(selector.fraction, selector.warmup, self.part.epochs, spent)

    def _judged(
        self, chosen: Pretrain, what: str, workspace: Workspace, tell: Callable[[str], None]
    ) -> tuple[Path, dict[str, Any]]:
        """The pre-training run, and the result of the classifier on it."""
        tell(f"seed {chosen.seed}, {what}")
        encoder, beside = pretrain(chosen, workspace), replace(workspace, root=None)
        tuned = finetune(encoder, replace(finetune_recipe(encoder, self.mode), seed=chosen.seed), beside)
        result = evaluate(tuned, workspace=beside)
        standard, robust = result["standard"], result["robust"]
        tell(f"seed {chosen.seed}, {what}: SA {standard['percent']:.1f} %  RA {robust['percent']:.1f} %")
        return encoder, result  # pyright: ignore[reportReturnType]


def compared(name: str) -> tuple[Pretrain, str]:
    """The recipe of a name on coresets, and what the same on all images is called.

    acl/digits and acl-rcs/digits are one pair, and are compared as the second is trained. A method whose paper has no
    coreset takes RCS, and keeps its name.
    """
    chosen = recipe(name)
    if not isinstance(chosen, Pretrain):
        raise ValueError(f"{name} selects no images; name what it goes on from, which is {chosen.teacher}")
    data = name.partition("/")[2] or "cifar10"
    offered = DATASETS[data].methods or RECIPES
    known = [recipe(f"{method}/{data}") for method in RECIPES if method in offered]
    same = [other for other in known if isinstance(other, Pretrain) and other.method == chosen.method]
    whole = next((other.name for other in same if other.coreset is None), chosen.name)
    part = next((other for other in same if other.coreset is not None), None)
    return part or replace(chosen, coreset=rcs(defaults_for(chosen.data), chosen.epochs)), whole
