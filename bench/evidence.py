"""Natural images: methods at about one cost, on all of CIFAR-10, with one thread of a CPU.

`python -m bench evidence --data FOLDER --out FOLDER [ROW ...]`, where FOLDER holds cifar10/ as Parquet, or the original
archive. Without names it makes all rows, in order. The same command resumes; a row that is finished is found. Each
classifier's result, with the verdict on every test image, is written to OUT/results. docs/evidence.md has the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import unshaken
from bench.clock import tell
from unshaken.base.checksum import FIELD
from unshaken.base.json_files import write_json
from unshaken.base.schedule import Constant, MultiStep, WarmupCosine
from unshaken.board.submit import submission
from unshaken.compute.runtime import Runtime
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import Random
from unshaken.data.source import DataSource
from unshaken.methods.air import AIR
from unshaken.nets.wide_resnet import wrn
from unshaken.recipes.finetune import Finetune
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.evaluate import default_evaluation
from unshaken.runs.plan import with_epochs
from unshaken.train.attack_policy import with_attack_steps
from unshaken.train.averaging import EMA

STEPS = 2
"""Attack steps in training; they cover the distance of the recipe's own number of steps."""
FEW = {"few": 5000, "few-long": 5000}
"""Labelled images of the modes that fine-tune the whole network on a tenth of them, as `aff` does on all."""
EXAMINED = 256
"""Random test images that AutoAttack is run on."""


class PatchWRN(nn.Module):
    """WRN-10-4 on patches: its first convolution is 7×7 with a stride of 4. 1.2 million weights, 256 features.

    On one core it is as fast as WRN-10-1 at full resolution (0.1 million weights), and learns more in the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = wrn("wrn-10-4")
        self.net.conv1 = nn.Conv2d(3, 16, 7, stride=4, padding=3, bias=False)
        nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@dataclass(frozen=True)
class Row:
    """An encoder and the classifiers that are made from it.

    recipe   its pre-training
    modes    name of a fine-tuning -> epochs; names ending in "+aa" are also examined by AutoAttack
    teacher  row of the encoder that it learns from
    """

    recipe: Callable[[], Pretrain]
    modes: dict[str, int]
    teacher: str | None = None


def recipe(name: str, epochs: int, **changes: Any) -> Pretrain:
    """A recipe with this network, these epochs, batches of 250, and attacks of two steps."""
    one = unshaken.recipe(f"{name}/cifar10")
    assert isinstance(one, Pretrain)
    backbone = replace(one.backbone, name="bench.evidence:PatchWRN")
    one = with_epochs(replace(one, backbone=backbone, batch_size=250), epochs)
    if name != "simclr":
        one = replace(one, method=with_attack_steps(one.method, STEPS))
    peak = 0.5 if name == "deacl" else 3.0
    return replace(one, lr=WarmupCosine(peak, warmup=0.5), **changes)


def air(form: str) -> Callable[[], Pretrain]:
    def build() -> Pretrain:
        one = recipe("acl-air", 2)
        assert isinstance(one.method, AIR)
        return replace(one, method=replace(one.method, divergence=form))

    return build


def untrained() -> Pretrain:
    """The network's first weights: SimCLR on 250 images at a rate of 0."""
    one = recipe("simclr", 1)
    return replace(one, lr=Constant(0.0), data=replace(one.data, limit=250))


def coreset(selector: Any, epochs: int) -> Callable[[], Pretrain]:
    return lambda: recipe("acl", epochs, coreset=selector)


FIFTH: dict[str, Any] = {"fraction": 0.2, "warmup": 1, "every": 3}
ROWS = {
    "simclr": Row(lambda: recipe("simclr", 6), {"slf": 5, "alf": 3, "aff+aa": 3, "few": 20}),
    "acl": Row(lambda: recipe("acl", 2), {"slf+aa": 5, "alf": 3, "aff+aa": 3, "few": 20}),
    "untrained": Row(untrained, {"aff+aa": 6, "slf": 5, "alf": 3, "few": 20, "few-long": 50}),
    "simclr-third": Row(lambda: recipe("simclr", 2), {}),
    "deacl": Row(lambda: recipe("deacl", 2), {"slf+aa": 5, "alf": 3, "aff+aa": 3, "few": 20}, teacher="simclr-third"),
    "acl-air-kl": Row(air("kl"), {"slf": 5, "alf": 3}),
    "acl-air-normalized": Row(air("normalized"), {"slf": 5, "alf": 3}),
    "acl-air-released": Row(air("released"), {"slf": 5, "alf": 3}),
    "dynacl-plain": Row(lambda: recipe("dynacl-plain", 2), {"slf": 5, "alf": 3}),
    "acl-rcs": Row(coreset(RCS(**FIFTH), 6), {"slf": 5, "alf": 3}),
    "acl-chance": Row(coreset(Random(**FIFTH), 6), {"slf": 5, "alf": 3}),
}


def finetuning(encoder: Path, mode: str, epochs: int) -> Finetune:
    """SLF and ALF with a rate that falls twice; AFF with a cosine and averaged weights. Attacks have two steps."""
    one = unshaken.finetune_recipe(encoder, "aff" if mode in FEW else mode)
    assert isinstance(one, Finetune)
    one = replace(one, batch_size=250, epochs=epochs)
    if mode != "slf":
        one = replace(one, method=with_attack_steps(one.method, STEPS))
    if mode in ("slf", "alf"):
        return replace(one, lr=MultiStep(0.1, at=(epochs - 2, epochs - 1)))
    return replace(one, lr=WarmupCosine(0.1, warmup=0.5), averaging=EMA())


def source(data: Path, out: Path) -> DataSource:
    """CIFAR-10 as Parquet in data/cifar10, with decoded copies in out; or the archive in data."""
    folder = data / "cifar10"
    if folder.exists():
        return DataSource(str(folder), root=str(out / "data"))
    return DataSource("cifar10", root=str(data))


class Evidence:
    """The rows, made in a folder; each step resumes or is found finished."""

    def __init__(self, data: Path, out: Path, seed: int) -> None:
        self.data, self.out, self.seed = data, out, seed
        self.workspace = unshaken.Workspace(runtime=Runtime(threads=1), save_every=60.0)

    def with_images(self, one: Any, limit: int | None) -> Any:
        return replace(one, data=replace(source(self.data, self.out), limit=limit), seed=self.seed)

    def encoder(self, name: str) -> Path:
        row = ROWS[name]
        one = row.recipe()
        one = self.with_images(one, one.data.limit)
        if row.teacher:
            one = replace(one, teacher=str(self.encoder(row.teacher)))
        return unshaken.pretrain(one, replace(self.workspace, root=self.out / name))

    def make(self, name: str, autoattack: bool = False) -> None:
        """Make a row: its encoder, its classifiers, and their results. AutoAttack adds to results that are there."""
        encoder = self.encoder(name)
        for mode, epochs in ROWS[name].modes.items():
            mode, harder, _ = mode.partition("+aa")
            recipe = self.with_images(finetuning(encoder, mode, epochs), limit=FEW.get(mode))
            classifier = unshaken.finetune(encoder, recipe, self.workspace)
            evaluation = default_evaluation(classifier)
            if autoattack and harder:
                evaluation = replace(evaluation, autoattack="standard", autoattack_limit=EXAMINED)
            result = unshaken.evaluate(classifier, evaluation=evaluation, workspace=self.workspace)
            assert result is not None
            kept = self.out / "results" / f"{name}-{mode}-seed{self.seed}.json"
            kept.parent.mkdir(exist_ok=True)
            content = submission(classifier)["result"]  # without paths of this machine
            write_json(kept, {name: value for name, value in content.items() if name != FIELD})
            tell(f"{kept}: SA {result['standard']['correct']}, PGD-20 {result['robust']['correct']}")


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m bench evidence", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--data", type=Path, required=True, help="a folder with cifar10/ as Parquet, or its archive")
    parser.add_argument("--out", type=Path, required=True, help="where runs and results go")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(args)
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}: the rows are {', '.join(ROWS)}")
    evidence = Evidence(options.data, options.out, options.seed)
    for autoattack in (False, True):  # the dear part comes last
        for name in options.rows or ROWS:
            evidence.make(name, autoattack)
