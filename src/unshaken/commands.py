"""What each verb of the command line does, with its options as values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.files import read_json, write_json, write_text
from unshaken.data.source import Source
from unshaken.evaluate.exam import Exam
from unshaken.options import meant_for, parse, parse_nothing, subject, taken
from unshaken.recipes.demo import demo as demonstrate
from unshaken.recipes.examine import exam_for, examine, tuned_on
from unshaken.recipes.finetune import MODES, Finetune, protocol
from unshaken.recipes.papers import PAPERS, recipe
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.settings import SETTINGS
from unshaken.report.table import markdown, show, summary
from unshaken.train.runtime import Runtime

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Pretraining:
    """Train an encoder without labels.

    Every field of the recipe is an option by its dotted name. A part is exchanged for another kind by its own name:
    --optimizer SGD, AdamW or LARS; --method.attack.ball L2 or Linf (of AIR: --method.acl.attack.ball); --rate and
    --strength Constant, Stairs, WarmupCosine or Milestones.
    """

    recipe: Annotated[Pretrain, Flat]
    runtime: Runtime = Runtime()
    out: Path = Path("runs")
    """Under which folder the run's own is made."""
    save_every: float = 60.0
    """Seconds between checkpoints; 0 saves after every step."""


@dataclass(frozen=True)
class Finetuning:
    """Fine-tune an encoder with labels."""

    recipe: Annotated[Finetune, Flat]
    runtime: Runtime = Runtime()
    out: Path | None = None
    """Under which folder the run's own is made; beside the encoder if it is not given."""
    save_every: float = 60.0
    """Seconds between checkpoints; 0 saves after every step."""


@dataclass(frozen=True)
class Evaluation:
    """Judge fine-tuned classifiers on the test images: standard and robust accuracy."""

    exam: Annotated[Exam, Flat]
    data: Source
    """Whose test split; by default of the set that a run was fine-tuned on."""
    runtime: Runtime = Runtime()


@dataclass(frozen=True)
class Demonstration:
    """CL, ACL and ACL-AIR on digits: pre-training, SLF, ALF and AFF, standard and robust accuracy."""

    out: Path = Path("demo")
    """Where runs, summary.json and table.md go."""
    runtime: Runtime = Runtime()


def pretrain(args: list[str]) -> None:
    name, rest = subject(args, "pretrain", "RECIPE", "acl/cifar10; `unshaken list` shows them all")
    default = recipe(name)
    options = parse(Pretraining(default), rest, f"unshaken pretrain {name}")
    chosen = options.recipe
    if chosen.data.name != default.data.name and chosen.split == default.split == "unlabeled":
        chosen = replace(chosen, split="train")  # STL-10 alone has an unlabeled split
    remark(chosen)
    run = chosen.run(options.out, options.runtime, options.save_every)
    print(f"{run}/encoder.safetensors  digest {read_json(run / 'run.json')['digest']}")
    print(f"next: unshaken finetune {run}")


def remark(chosen: Pretrain) -> None:
    """Say what a short run makes of schedules that were made for a long one."""
    for name in ("rate", "strength"):
        lasting = getattr(getattr(chosen, name), {"rate": "warmup", "strength": "every"}[name], 0)
        if lasting >= chosen.epochs:
            print(
                f"note: --{name} is made for more than {lasting} epochs, but there are {chosen.epochs}", file=sys.stderr
            )


def finetune(args: list[str]) -> None:
    name, rest = subject(args, "finetune", "ENCODER", "a pre-training run's folder or an encoder file")
    mode, rest = taken(rest, "--mode")
    data, rest = taken(rest, "--data.name")
    encoder = Path(name)
    choices = [protocol(each, encoder) for each in (MODES if mode in (None, "all") else (mode,))]
    if data:  # another set has other presets
        source = replace(choices[0].data, name=data, size=None, limit=None)
        choices = [protocol(choice.mode, encoder, source) for choice in choices]
    defaults = [Finetuning(choice) for choice in choices]
    all_options = [
        parse(default, meant_for(default, rest, defaults), f"unshaken finetune {name} --mode {default.recipe.mode}")
        for default in defaults
    ]
    for options in all_options:
        print(f"{options.recipe.mode}: {described(options.recipe)}", file=sys.stderr)
        run = options.recipe.run(encoder, options.out, options.runtime, options.save_every)
        print(f"{run}/classifier.safetensors  digest {read_json(run / 'run.json')['digest']}")
        print(f"next: unshaken evaluate {run}")


def described(chosen: Finetune) -> str:
    """The few choices that a reader of a table asks for."""
    limit = f"the first {chosen.data.limit} images of " if chosen.data.limit else ""
    return f"{limit}{chosen.data.name}, {chosen.epochs} epochs, batch {chosen.batch}, {chosen.rate}"


def evaluate(args: list[str]) -> None:
    name, rest = subject(args, "evaluate", "RUN", "a fine-tuning run's folder, or a folder that holds several")
    results = []
    for run in fine_tuned(Path(name)):
        options = parse(Evaluation(exam_for(run), tuned_on(run)), rest, f"unshaken evaluate {name}")
        results.append(examine(run, options.exam, options.data, options.runtime))
    show(results)


def demo(args: list[str]) -> None:
    options = parse(Demonstration(), args, "unshaken demo")
    tell = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    # bars where they can live, else a line before and after each part
    results = list(demonstrate(options.out / "runs", options.runtime, tell=tell, quiet=not sys.stderr.isatty()))
    write_json(options.out / "summary.json", summary(results))
    write_text(options.out / "table.md", markdown(results))
    show(results)
    print(f"{options.out}/summary.json and {options.out}/table.md hold this; every run lies under {options.out}/runs")


def list_(args: list[str]) -> None:
    parse_nothing(args, "unshaken list")
    print("Recipes of pre-training, METHOD/SET:")
    for name, make in PAPERS.items():
        print(f"  {name:<13} {(make.__doc__ or '').splitlines()[0]}")
    print(f"  SET is {', '.join(SETTINGS)}; or any of them with --data PATH for images of your own.")
    print("Fine-tuning, --mode:")
    for mode, line in zip(MODES, ("standard linear", "adversarial linear", "adversarial full (TRADES)"), strict=True):
        print(f"  {mode:<13} {line}")


def fine_tuned(path: Path) -> list[Path]:
    """The fine-tuning runs at or below a folder that have come to their end."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}")
    runs = sorted(file.parent for file in path.rglob("run.json") if (file.parent / "classifier.safetensors").exists())
    if not runs:
        raise ValueError(f"there is no finished fine-tuning run in {path}; `unshaken finetune ENCODER` makes one")
    return runs


VERBS: dict[str, Callable[[list[str]], None]] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "demo": demo,
    "list": list_,
}
