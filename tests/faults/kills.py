"""Kills commands at random moments and gives them again: each ends with the bits of one that was left alone.

    python tests/faults/kills.py 200 --seed 1

A child is forked for each command, so that Python and PyTorch are loaded once. Recipes are tiny, and of the demo and
the frontier only the sizes are changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TINY = ["--data.limit", "64", "--batch-size", "32", "--save-every", "0"]
CORESETS = ["--coreset.fraction", "0.5", "--coreset.warmup", "1", "--coreset.every", "1"]
STEPS = ["--method.attack.steps", "1"]
VERBS: dict[str, list[str]] = {
    "pretrain": ["pretrain", "acl-rcs/digits", "--epochs", "3", *TINY, *CORESETS, *STEPS, "--out", "runs"],
    "robustify": [
        "robustify",
        "run",
        "--data",
        "digits",
        "--epochs",
        "2",
        *TINY,
        *STEPS,
        "--test",
        "16",
        "--out",
        "runs",
    ],
    "finetune": ["finetune", "run", "--mode", "all", "--epochs", "2", *TINY, *STEPS],
    "autolora": ["finetune", "run", "--mode", "autolora", "--epochs", "2", "--aside", "3", *TINY, *STEPS],
    "evaluate": [
        "evaluate",
        "run/slf",
        "--limit",
        "64",
        "--batch-size",
        "16",
        "--attack.steps",
        "2",
        "--corruptions",
        "fog",
    ],
    "export": ["export", "run", "--to", "safetensors", "--out", "out/encoder.safetensors"],
    "export hub": ["export", "run", "--to", "hub", "--out", "hub"],
    "import": [
        "import",
        "theirs.pt",
        "--out",
        "theirs",
        "--mean",
        "0.5",
        "--std",
        "0.5",
        "--image-size",
        "8",
        "--data",
        "digits",
    ],
    "demo": ["demo", "--out", "demo"],
    "frontier": ["frontier", "acl-rcs/digits", "--fractions", "0.5", "--seeds", "1", "--epochs", "3", *TINY[:4]]
    + [*CORESETS[2:], *STEPS],
    "board": ["board", "results", "--out", "site"],
    "submit": ["submit", "results/0.json", "--by", "A. Author", "--out", "submission.json"],
    "pack": ["pack", "photos", "--out", "photos.packed"],
    "embed": ["embed", "run", "--data", "digits", "--out", "features.csv"],
    "predict": ["predict", "run/slf", "--data", "digits", "--out", "classes.csv"],
}
"""A command of every verb that writes, given in a folder that holds run/, run/slf/, results/ and theirs.pt."""
RESULTS = Path(__file__).parents[2] / "results" / "digits"


def made_tiny() -> None:
    """What no option makes small: the demo's epochs, the frontier's fine-tuning, and what goes by the time taken."""
    from unshaken.attacks.autoattack import AutoAttack
    from unshaken.runs import demo, frontier

    recipe = demo.recipe
    demo.recipe = lambda name: replace(_small(recipe(name)), epochs=1)
    for module in (demo, frontier):
        finetune, evaluate = module.finetune, module.evaluate
        module.finetune = lambda encoder, mode, workspace, finetune=finetune: finetune(
            encoder, _one_epoch(encoder, mode), workspace
        )
        module.evaluate = lambda run, evaluate=evaluate, **named: evaluate(run, **_quick(named, run))
    given = {f.name: f.default for f in fields(AutoAttack)} | {"steps": 2, "queries": 4, "targets": 2}
    AutoAttack.__init__.__defaults__ = tuple(given[f.name] for f in fields(AutoAttack) if f.default is not MISSING)
    demo.demo.__defaults__ = (("simclr",), ("slf", "alf"), *demo.demo.__defaults__[2:])
    frontier.matched = lambda *_: 0.75


def _small(recipe: Any) -> Any:
    return replace(recipe, data=replace(recipe.data, limit=64), batch_size=32)


def _one_epoch(encoder: Path, mode: Any) -> Any:
    """One epoch of a mode, by its name or its recipe."""
    import unshaken

    recipe = unshaken.finetune_recipe(encoder, mode) if isinstance(mode, str) else mode
    return replace(_small(recipe), epochs=1)


def _quick(named: dict[str, Any], run: Path) -> dict[str, Any]:
    from unshaken.runs.evaluate import default_evaluation

    evaluation = named.get("evaluation") or default_evaluation(run)
    corruptions = evaluation.corruptions and ("fog",)
    attack = replace(evaluation.attack, steps=2)
    return named | {"evaluation": replace(evaluation, attack=attack, corruptions=corruptions, severities=(1,))}


def prepared(folder: Path) -> None:
    """The run, the classifier and the checkpoint that commands begin with."""
    import torch
    from PIL import Image

    import unshaken
    from unshaken.nets.backbone import Backbone

    recipe = _small(unshaken.recipe("acl/digits"))
    run = unshaken.pretrain(replace(recipe, epochs=1), unshaken.Workspace(folder, quiet=True)).rename(folder / "run")
    unshaken.finetune(
        run, replace(unshaken.finetune_recipe(run, "slf"), epochs=1), unshaken.Workspace(quiet=True)
    ).rename(run / "slf")
    grey = Backbone("resnet-small", image_size=8, channels=1, mean=(0.5,), std=(0.5,))
    torch.manual_seed(3)
    torch.save(grey.build().backbone.state_dict(), folder / "theirs.pt")
    (folder / "results").mkdir()
    (folder / "photos").mkdir()
    for number in range(40):
        Image.effect_noise((24, 24), 8.0 * number).save(folder / "photos" / f"{number}.png")
    for number, result in enumerate(sorted(RESULTS.glob("acl-slf-seed*.json"))):
        shutil.copy2(result, folder / "results" / f"{number}.json")


@dataclass
class Ended:
    """How a command ended, and what it said."""

    code: int
    said: str

    @property
    def in_a_line(self) -> bool:
        """Whether it did what was asked, or said on one line why not."""
        lines = [line for line in self.said.splitlines() if line.startswith("unshaken: ")]
        return self.code == 0 or (self.code == 2 and len(lines) == 1 and "Traceback" not in self.said)


def begun(work: Callable[[], int | None], folder: Path, log: Path) -> int:
    """The process in which the work is done."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = work() or 0
    except BaseException:  # a child never goes on with its parent's work
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(child: int, log: Path) -> Ended:
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


def command(verb: str) -> Callable[[], int]:
    def work() -> int:
        import torch

        from unshaken import cli

        torch.set_num_threads(1)
        made_tiny()
        return cli.run(VERBS[verb])

    return work


VOLATILE = ("seconds", "spent", "world", "images_per_s", "host", "time", "checksum", "memory_gb", "date")
"""What differs between two runs of one recipe."""
UNREAD = (".lock", ".svg", ".md", ".txt", "log.jsonl", "summary.json")
"""Ends of files that are drawn from others, or tell how it went."""


def outcome(folder: Path) -> dict[str, str]:
    """Every file that a command leaves, by what of it has to be the same each time."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_file() and not name.endswith(UNREAD):
            found[name] = blake2b(content(file), digest_size=8).hexdigest()
    return found


def content(file: Path) -> bytes:
    if file.suffix == ".json":
        return json.dumps(stable(json.loads(file.read_text())), sort_keys=True).encode()
    if file.suffix == ".jsonl":
        return json.dumps([stable(json.loads(line)) for line in sorted(file.read_text().splitlines())]).encode()
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(file)
        return b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))
    return file.read_bytes()


def stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: stable(inner) for key, inner in value.items() if key not in VOLATILE}
    return [stable(inner) for inner in value] if isinstance(value, list) else value


class Table:
    """Commands left alone, killed, and given three at a time."""

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root, self.say, self.count = root, say, 0
        self.base = root / "base"
        self.base.mkdir()
        made = ended(begun(lambda: prepared(self.base), root, root / "log"), root / "log")
        assert made.code == 0, made.said
        self.alone: dict[str, tuple[dict[str, str], float]] = {}

    def fresh(self) -> Path:
        self.count += 1
        return Path(shutil.copytree(self.base, self.root / str(self.count)))

    def left_alone(self, verb: str) -> tuple[dict[str, str], float]:
        """What a command leaves that nothing disturbs, and the seconds that it takes."""
        if verb not in self.alone:
            folder, since = self.fresh(), time.monotonic()
            done = self.run(verb, folder)
            assert done.code == 0, f"{verb}: {done.said}"
            self.alone[verb] = outcome(folder), time.monotonic() - since
            shutil.rmtree(folder)
        return self.alone[verb]

    def run(self, verb: str, folder: Path) -> Ended:
        return ended(begun(command(verb), folder, self.root / "log"), self.root / "log")

    def killed(self, verb: str, rng: random.Random) -> str | None:
        """Killed at random and given again: what is wrong then, "" if nothing is; None if the kill came too late."""
        expected, seconds = self.left_alone(verb)
        folder = self.fresh()
        child = begun(command(verb), folder, self.root / "log")
        time.sleep(rng.uniform(0.0, seconds))
        os.kill(child, signal.SIGKILL)
        if ended(child, self.root / "log").code != -signal.SIGKILL:
            shutil.rmtree(folder)
            return None
        again = self.run(verb, folder)
        wrong = f"exit code {again.code}: {again.said[-400:]}" if again.code else self.differs(folder, expected)
        shutil.rmtree(folder)
        return wrong

    def together(self, verb: str, count: int) -> str:
        """Several at once in one folder: what is wrong; "" if each ends well or in a line, with the same bits.

        Where none of them ended well, one more has to.
        """
        expected, _ = self.left_alone(verb)
        folder = self.fresh()
        logs = [self.root / f"log{n}" for n in range(count)]
        children = [begun(command(verb), folder, log) for log in logs]
        ends = [ended(child, log) for child, log in zip(children, logs, strict=True)]
        wrong = next((f"exit code {end.code}: {end.said[-400:]}" for end in ends if not end.in_a_line), "")
        if not wrong and all(end.code for end in ends):
            again = self.run(verb, folder)
            wrong = f"afterwards exit code {again.code}: {again.said[-400:]}" if again.code else ""
        wrong = wrong or self.differs(folder, expected)
        shutil.rmtree(folder)
        return wrong

    def differs(self, folder: Path, expected: dict[str, str]) -> str:
        found = outcome(folder)
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        return f"files that differ, lack or are too many: {', '.join(names[:5])}" if names else ""


def main() -> int:
    parser = argparse.ArgumentParser("kills", description=__doc__)
    parser.add_argument("count", type=int, help="how many commands to kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbs", nargs="*", default=list(VERBS), choices=list(VERBS))
    parser.add_argument("--together", type=int, nargs="?", const=3, default=0, help="every verb so often at once, too")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import unshaken.commands  # noqa: F401 (loaded before the first fork)

    rng, bad = random.Random(options.seed), 0
    with TemporaryDirectory() as folder:
        table = Table(Path(folder))
        counts = {verb: [0, 0, 0] for verb in options.verbs}
        made = 0
        while made < options.count:
            verb = options.verbs[(made + sum(late for _, _, late in counts.values())) % len(options.verbs)]
            wrong = table.killed(verb, rng)
            if wrong is None:
                counts[verb][2] += 1
                continue
            made += 1
            counts[verb][0] += 1
            if wrong:
                counts[verb][1] += 1
                print(f"{verb}: {wrong}", flush=True)
        for verb, (kills, faults, late) in counts.items():
            print(f"{verb:<10}  {kills} kills, {faults} faults, {late} too late", flush=True)
            bad += faults
        for verb in options.verbs if options.together else ():
            wrong = table.together(verb, options.together)
            print(f"{verb:<10}  {options.together} at once: {wrong or 'fine'}", flush=True)
            bad += bool(wrong)
    print(f"{made} kills, {bad} faults")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
