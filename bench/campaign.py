"""A robust encoder in a given time: plan, pre-training, SLF, PGD-20 and AutoAttack.

`python -m bench campaign --seconds 600 --data FOLDER --out FOLDER`, where FOLDER holds cifar10/ as Parquet, or the
original archive. The stages are pre-training (a teacher first, if the recipe has one), SLF, clean and PGD-20
accuracy, and AutoAttack until the time is over. The speed is measured first and decides the epochs, so that everything
ends within the time. The same command resumes it; with more seconds than before it makes a longer plan. The output is
result.json (clean and PGD-20), result-autoattack.json, and campaign.json with the plan and the seconds of
each stage.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import unshaken
from bench.clock import tell
from unshaken.base.json_files import read_json, write_json
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.evaluation.verdicts import forecast
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.evaluate import default_evaluation, evaluate
from unshaken.runs.plan import epochs_in, make_plan, teacher_recipe, with_epochs
from unshaken.train.attack_policy import most_steps, with_attack_steps
from unshaken.train.throughput import Speed

BLOCKS = (16, 32, 64, 128, 256, 512)
"""Possible numbers of images per block. A block goes through all attacks before the next one starts."""
GRADIENTS = 4000
"""Cost of AutoAttack per image, in input gradients, if about half of the images survive it."""
SCORES = {"evaluation": "robust", "autoattack": "autoattack"}
"""Name in a result of the last score that a stage measures."""
CLOSING = 4.0
"""Seconds reserved at the end for writing files, and for a last block that is slower than the one before."""


@dataclass
class State:
    """The state of a campaign, in FOLDER/campaign.json.

    budget   seconds for everything, over all calls
    used     seconds of all calls so far
    choices  epochs and attack steps by stage, precision and speeds: made once, kept for later calls
    seconds  of each finished stage
    """

    budget: float
    used: float = 0.0
    choices: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Campaign:
    """A recipe with a time limit, and the folder in which it can be resumed."""

    def __init__(self, wanted: Pretrain, seconds: float, folder: Path, runtime: Runtime) -> None:
        self.wanted, self.folder, self.runtime, self.began = wanted, folder, runtime, time.monotonic()
        file = folder / "campaign.json"
        before = State(**{k: v for k, v in read_json(file).items() if k != "recipe"}) if file.exists() else None
        if before and read_json(file)["recipe"] != self.identity:
            raise SystemExit(f"bench: {folder} holds a campaign of another recipe; choose another --out")
        longer = before is not None and seconds > before.budget
        if longer:
            tell(f"there are {seconds:,.0f} s, and the plan was for {before.budget:,.0f}: making a longer plan")
        self.state = State(seconds) if before is None or longer else before
        self.before = self.state.used

    @property
    def identity(self) -> str:
        one, data = self.wanted, self.wanted.data
        images = f"{Path(data.name).name}, {data.limit or 'all'} images"
        steps = most_steps(one.method)
        attack = "" if steps == most_steps(unshaken.recipe(one.name).method) else f", {steps} attack steps"
        return f"{one.name} on {images}, {one.backbone.name}, batch {one.batch_size}, seed {one.seed}{attack}"

    @property
    def used(self) -> float:
        return self.before + time.monotonic() - self.began

    @property
    def left(self) -> float:
        return self.state.budget - self.used

    def save(self) -> None:
        self.state.used = round(self.used, 2)
        write_json(self.folder / "campaign.json", {"recipe": self.identity, **asdict(self.state)})

    @contextmanager
    def clocked(self, every: float = 5.0) -> Iterator[None]:
        """Write the time used every few seconds, so that a call that is killed is counted too."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(every):
                self.save()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.save()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        tell(f"[{self.used:6.1f} s] {name}")
        yield
        self.state.seconds[name] = round(self.state.seconds.get(name, 0.0) + time.monotonic() - began, 2)
        self.save()

    def run(self) -> dict[str, Any]:
        """Run all stages, or those that are left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.clocked():
            if not self.state.choices:
                with self.stage("plan"):
                    self.plan()
            runtime = replace(self.runtime, precision=self.state.choices["precision"])
            how = {"root": self.folder / "runs", "runtime": runtime, "save_every": 30.0}
            wanted, teacher = self.planned("pretrain"), self.planned("teacher")
            if teacher is not None:
                with self.stage("teacher"):
                    wanted = replace(wanted, teacher=str(unshaken.pretrain(teacher, unshaken.Workspace(**how))))
                if "pretrain" not in self.state.seconds:
                    self.fit_to_what_is_left()
                    wanted = replace(self.planned("pretrain"), teacher=wanted.teacher)
            with self.stage("pretrain"):
                encoder = unshaken.pretrain(wanted, unshaken.Workspace(**how))
            slf = with_epochs(unshaken.finetune_recipe(encoder, "slf"), self.state.choices["slf"]["epochs"])
            with self.stage("slf"):
                classifier = unshaken.finetune(encoder, slf, unshaken.Workspace(runtime=runtime, save_every=30.0))
            with self.stage("evaluation"):
                result = self.judged(classifier, runtime)
            with self.stage("autoattack"):
                harder = self.attacked(classifier, runtime)
        tell(f"[{self.used:6.1f} s] done")
        return {"result": result, "autoattack": harder, "seconds": self.state.seconds, "classifier": str(classifier)}

    def plan(self) -> None:
        found = make_plan(self.wanted, self.left, self.runtime, tell=tell)
        steps = most_steps(found.stage("pretrain").recipe.method)
        self.state.choices = {"precision": found.runtime.precision, "images": found.images, "notes": found.notes}
        for stage in found.stages:
            kept = {"images_s": round(stage.images_s, 1), "seconds": round(stage.seconds, 1)}
            self.state.choices[stage.name] = kept | ({} if stage.recipe is None else {"epochs": stage.epochs})
        self.state.choices["pretrain"]["steps"] = steps
        for stage in found.stages:
            epochs = "" if stage.epochs is None else f"{stage.epochs} epochs, "
            tell(f"  {stage.name:<11} {epochs}{stage.seconds:,.0f} s")
        for note in found.notes:
            tell(f"  note: {note}")

    def planned(self, role: str) -> Pretrain | None:
        """The recipe of a stage as planned."""
        one = teacher_recipe(self.wanted) if role == "teacher" else self.wanted
        if one is None:
            return None
        choice = self.state.choices[role]
        if choice.get("steps"):
            one = replace(one, method=with_attack_steps(one.method, choice["steps"]))
        return with_epochs(one, choice["epochs"])

    def fit_to_what_is_left(self) -> None:
        """Change the epochs of the later stages if the teacher took more or less time than planned."""
        choices = self.state.choices
        later = sum(choices[name]["seconds"] for name in ("slf", "evaluation", "autoattack"))
        speed = Speed(choices["pretrain"]["images_s"], 1.0)
        epochs = max(1, epochs_in(self.left - later, speed, choices["images"], self.wanted.epochs))
        if epochs != choices["pretrain"]["epochs"] and not list((self.folder / "runs").glob(f"{self.wanted.name}-*")):
            tell(f"  {self.left:,.0f} s are left: {epochs} epochs in place of {choices['pretrain']['epochs']}")
            choices["pretrain"]["epochs"] = epochs
            self.save()

    def judged(self, classifier: Path, runtime: Runtime) -> dict[str, Any]:
        """Measure clean and PGD-20 accuracy, on all test images if there is time, otherwise on random ones."""
        evaluation = default_evaluation(classifier)
        kept = min(self.state.choices["autoattack"]["seconds"], self.left / 2)
        result = self.anytime(classifier, runtime, evaluation, "evaluation", evaluation.attack.steps + 2, kept)
        write_json(self.folder / "result.json", result)
        standard, robust = result["standard"], result["robust"]
        tell(f"  SA {standard['correct']} of {standard['n']}, PGD-20 {robust['correct']} of {robust['n']}")
        return result

    def attacked(self, classifier: Path, runtime: Runtime) -> dict[str, Any]:
        """Run AutoAttack on random test images, block by block, until no further block fits into the time."""
        evaluation = replace(default_evaluation(classifier), autoattack="standard")
        result = self.anytime(classifier, runtime, evaluation, "autoattack", GRADIENTS, 0.0)
        write_json(self.folder / "result-autoattack.json", result)
        found = result["autoattack"]
        tell(f"  AutoAttack {found['correct']} of {found['n']} random test images")
        return result

    def anytime(
        self, classifier: Path, runtime: Runtime, evaluation: Evaluation, stage: str, gradients: float, kept: float
    ) -> dict[str, Any]:
        """Evaluate block by block; the time of the first block decides how many more fit.

        gradients  number of input gradients per image, which decides the block size
        kept       seconds of the remaining time that are reserved for later stages
        """
        choice = self.state.choices[stage]
        if "block" not in choice:  # several blocks should fit; a later call has to take the same
            fit = max(0.0, self.left - kept - CLOSING) * choice["images_s"] / gradients / 3
            choice["block"] = max((size for size in BLOCKS if size <= fit), default=BLOCKS[0])
            self.save()
        evaluation, size, score = replace(evaluation, batch_size=choice["block"]), choice["block"], SCORES[stage]
        n, until, quiet = 0, 100.0, False
        while True:
            began = time.monotonic()
            result = evaluate(
                classifier,
                evaluation=replace(evaluation, until=until),
                workspace=unshaken.Workspace(runtime=runtime, quiet=quiet),
            )
            done, total = result[score]["n"], result[score].get("of", result[score]["n"])
            block = (time.monotonic() - began) / max(1, (done - n) // size)
            more = min(int((self.left - kept - CLOSING) / block), -(-(total - done) // size))
            if more < 1 or done == n:
                return result
            n, quiet = done, True
            until = (
                self.width(result[score], min(n + size * more, total) - 1, total) if n + size * more < total else 0.0
            )

    @staticmethod
    def width(score: dict[str, Any], n: int, total: int) -> float:
        """Return the width of the interval in percentage points for n images, if the accuracy does not change."""
        low, high = forecast(round(score["correct"] / score["n"] * n), n, total)
        return 100 * (high - low)


def main(args: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m bench campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, required=True, help="for everything, over all calls")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a folder with the set as Parquet (cifar10/), or its original archive",
    )
    parser.add_argument("--out", type=Path, required=True, help="where runs and results go")
    parser.add_argument("--recipe", default="deacl/cifar10")
    parser.add_argument("--backbone", help="another network than the recipe's, such as wrn-10-2")
    parser.add_argument("--limit", type=int, help="train on the first so many images")
    parser.add_argument("--batch-size", type=int, help="another batch size than the recipe's")
    parser.add_argument("--attack-steps", type=int, help="another number of attack steps in training than the recipe's")
    parser.add_argument("--mode", default="fast", help="repeatable or fast, of the runtime: they differ on GPUs")
    parser.add_argument("--compile", default="no", help="no, kernels or graphs, of the runtime")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(args)
    wanted = unshaken.recipe(options.recipe)
    if not isinstance(wanted, Pretrain):
        raise SystemExit(f"bench: {options.recipe} consists of several recipes; name a single one")
    if wanted.data.name != "digits":
        folder = options.data / wanted.data.name
        own = DataSource(str(folder), root=str(options.out / "data")) if folder.exists() else None
        data = own or replace(wanted.data, root=str(options.data))
        wanted = replace(wanted, data=replace(data, limit=options.limit))
    if options.backbone:
        wanted = replace(wanted, backbone=replace(wanted.backbone, name=options.backbone))
    wanted = replace(wanted, batch_size=options.batch_size or wanted.batch_size, seed=options.seed)
    if options.attack_steps:
        wanted = replace(wanted, method=with_attack_steps(wanted.method, options.attack_steps))
    runtime = Runtime(precision="auto", mode=options.mode, compile=options.compile, threads=options.threads)
    Campaign(wanted, options.seconds, options.out, runtime).run()
