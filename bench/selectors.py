"""Selectors against chance: ACL on a fifth of the images by each of them, SLF, and PGD-20 on all test images.

`python -m bench selectors --out FOLDER [--data FOLDER]`: digits of 8 pixels; with --data, which holds cifar10/ as
Parquet or the original archive, CIFAR-10 by the network of `bench evidence`. All runs of a seed begin with the same
epochs on all images, which are trained once. The same command resumes; a run that is finished is found. Each selector
is compared with chance by an exact sign test of paired verdicts, for each seed and over all of them. Classes are for
diagnosis only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy
import torch

import unshaken
from bench import evidence, records
from bench.clock import tell
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_json
from unshaken.base.packed_bits import unpack_bits
from unshaken.compute.runtime import Runtime
from unshaken.coreset.kmeans_margin import KMeansMargin
from unshaken.coreset.rcs import RCS
from unshaken.coreset.selector import All, Random, Ranked, Selector
from unshaken.methods.acl import ACL
from unshaken.nets.checkpoint import read_tensors
from unshaken.recipes.pretrain import Pretrain
from unshaken.report.compare import sign_test
from unshaken.runs.plan import with_epochs
from unshaken.train.attack_policy import with_attack_steps
from unshaken.train.coreset_training import SELECTION
from unshaken.train.image_sets import slug
from unshaken.train.run_dir import CHECKPOINT

EPOCHS, STEPS = 20, 2
WHEN: dict[str, Any] = {"warmup": 5, "every": 5, "validation": 0.1}
CHANCE = "chance"
SCORES = ("standard", "robust")


def selectors(attack: PGD) -> dict[str, Selector]:
    """Return the selectors by their names in the table; `attack` is the one on the validation images."""
    fifth = {"fraction": 0.2, "steps": 1, **WHEN}
    samples = RCS(**fifth, granularity="sample", at_once=8, attack=attack)
    return {
        CHANCE: Random(**fifth),
        "RCS, mini-batches of 16": RCS(**fifth, batch_size=16, attack=attack),
        "RCS, images": samples,
        "RCS, images, diversity 1": replace(samples, diversity=1.0),
        "Ranked, low gradient": Ranked(**fifth, by="gradient", largest=False),
        "KMeansMargin": KMeansMargin(**fifth),
        "all images": All(**{**WHEN, "every": None}),
    }


def pretraining(data: Path | None, out: Path) -> Pretrain:
    """Return ACL on digits, or on CIFAR-10 in a folder, with attacks of two steps."""
    if data is not None:
        return replace(evidence.recipe("acl", EPOCHS), data=evidence.source(data, out))
    one = unshaken.recipe("acl-rcs/digits")
    assert isinstance(one, Pretrain)
    return replace(with_epochs(one, EPOCHS), method=with_attack_steps(one.method, STEPS))


@dataclass(frozen=True)
class WarmedUp:
    """An observer that keeps the checkpoint at the end of the warm-up, from which other runs of the seed continue."""

    kept: Path

    def checkpoint(self, file: Path, step: int) -> None:
        place = read_tensors(file, CHECKPOINT)[1]["place"]
        if (place["epoch"], place["batch"]) == (WHEN["warmup"], 0) and not self.kept.exists():
            copyfile(file, self.kept)

    def give(self, run: Path) -> None:
        """Let a new run begin after the warm-up."""
        if self.kept.exists() and not run.exists():
            run.mkdir(parents=True)
            copyfile(self.kept, run / "checkpoint.safetensors")


def make(one: Pretrain, out: Path) -> dict[str, Any]:
    """Train and evaluate one run, or find it; return its verdicts, its seconds, and the classes of its selections."""
    workspace = unshaken.Workspace(out, Runtime(threads=1), quiet=True)
    warmed_up = WarmedUp(out / f"warm-up-{one.seed}.safetensors")
    warmed_up.give(workspace.folder(f"{one.name}-{slug(one.data)}", one))
    run = unshaken.pretrain(one, workspace, observers=[warmed_up])
    classifier = unshaken.finetune(run, "slf", replace(workspace, root=None))
    result = unshaken.evaluate(classifier, workspace=workspace)
    assert result is not None
    files = sorted(run.glob("coreset-*.safetensors"))
    return {
        **{score: {key: result[score][key] for key in ("correct", "n", "bits")} for score in SCORES},
        "seconds": read_json(run / "run.json")["spent"],
        "classes": [read_tensors(file, SELECTION)[1]["classes"] for file in files],
    }


def paired(made: dict[str, dict[str, Any]], base: dict[str, dict[str, Any]], score: str) -> dict[str, Any]:
    """Return, over the seeds that both have, the images on which only one is right, and p of the sign test."""
    better, worse = 0, 0
    for seed in made.keys() & base.keys():
        mine, theirs = (
            numpy.array(unpack_bits(row[seed][score]["bits"], row[seed][score]["n"])) for row in (made, base)
        )
        better, worse = better + int((mine & ~theirs).sum()), worse + int((theirs & ~mine).sum())
    return {"better": better, "worse": worse, "p": float(f"{sign_test(better, worse):.3g}")}


def summary(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each selector: counts by seed, the paired tests against chance, and the classes' evenness."""
    rows = []
    for name, made in found.items():
        row: dict[str, Any] = {"selector": name, "seeds": list(made)}
        for score in SCORES:
            row[score] = [made[seed][score]["correct"] for seed in made]
            row[f"{score} bits"] = [made[seed][score]["bits"] for seed in made]
            if name != CHANCE:
                row[f"{score} against chance"] = paired(made, found[CHANCE], score)
                shared = [seed for seed in made if seed in found[CHANCE]]
                each = {seed: paired({seed: made[seed]}, found[CHANCE], score)["p"] for seed in shared}
                row[f"{score} against chance"]["p by seed"] = each
        classes = [one for seed in made for one in made[seed]["classes"]]
        row["total variation"] = mean(one["total_variation"] for one in classes)
        row["random total variation"] = mean(one["random_mean"] for one in classes)
        row["selection seconds"] = mean(made[seed]["seconds"].get("selection", 0.0) for seed in made)
        rows.append(row)
    return rows


def mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return round(sum(values) / len(values), 3) if values else None


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m bench selectors", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where runs and results go")
    parser.add_argument("--data", type=Path, help="CIFAR-10 from this folder instead of digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--keep", action="store_true", help="keep the result in bench/results/selectors.json")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    before = records.load()
    recipe = pretraining(options.data, options.out)
    assert isinstance(recipe.method, ACL)
    attack = replace(RCS().attack, ball=recipe.method.attack.ball)
    found: dict[str, dict[str, Any]] = {name: {} for name in selectors(attack)}
    for seed in options.seeds:
        for name, selector in selectors(attack).items():
            made = make(replace(recipe, coreset=selector, seed=seed), options.out)
            found[name][str(seed)] = made
            tell(f"seed {seed}, {name}: SA {made['standard']['correct']}, PGD-20 {made['robust']['correct']}")
            write_json(options.out / "verdicts.json", found)
    result = {
        "name": "selectors",
        "n": found[CHANCE][str(options.seeds[0])]["robust"]["n"],
        "epochs": EPOCHS,
        **WHEN,
        "rows": summary(found),
        **records.about(before),
    }
    if options.keep:
        records.keep(result)
    print(json.dumps(result))
