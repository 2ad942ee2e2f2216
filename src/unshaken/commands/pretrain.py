"""`unshaken pretrain`: run a recipe by name; each of its fields is an option."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unshaken.base.amounts import amount
from unshaken.base.distributed import processes
from unshaken.base.ranges import Natural, NonNegative, Positive, ranged
from unshaken.base.schedule import MultiStep
from unshaken.commands.children import train_on_devices
from unshaken.commands.closing import close
from unshaken.compute.runtime import Runtime
from unshaken.options import Config, extra_data, flag_groups, parse, subject, take_option
from unshaken.options.aliases import ALIASES
from unshaken.recipes.catalog import recipe
from unshaken.recipes.datasets import DATASETS
from unshaken.recipes.lp_aff import LPAFF
from unshaken.recipes.own_recipes import is_own_recipe, own_recipe
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs import pretrain as runs
from unshaken.runs.choices import choose, is_open, remembered
from unshaken.runs.trial import Trial, pretrain_plan, some_training_images
from unshaken.runs.workspace import Workspace
from unshaken.train.gauges import GaugeOptions
from unshaken.train.signals import guard_signals
from unshaken.train.trackers import trackers

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class PretrainOptions:
    """Train an encoder without labels (st, sat, trades, sat-rcs and trades-rcs use labels).

    Every field of the recipe is an option. An option that takes a name, such as --optimizer SGD, replaces a component,
    whose own options then follow.
    """

    recipe: Annotated[Pretrain | LPAFF, Flat]
    """Recipe of the pre-training."""
    runtime: Runtime = Runtime()
    """Device, precision and threads."""
    out: Path = Path("runs")
    """Folder in which the run creates its own folder."""
    save_every: NonNegative = 60.0
    """Seconds between checkpoints; 0 saves after every step."""
    stop_after: NonNegative = 0.0
    """Seconds after which the command writes a checkpoint and ends with exit code 75; the same command resumes the run.
    It ends after a complete step or selection, and makes at least one step. 0 never stops."""
    hours: Positive = 1.0
    """Hours that pre-training on your own images may take if --epochs is not given. Measured steps decide the number of
    epochs, at most the paper's."""
    dry_run: bool = False
    """Print the plan without training: images, steps, the expected time from some measured steps, and memory. No file
    is written."""
    json: bool = False
    """Print the plan of --dry-run as JSON."""
    observe: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ()
    """Tools that get the log while the run trains. csv: metrics.csv in the run's folder. tensorboard, wandb (offline,
    unless WANDB_MODE says otherwise) and mlflow are extras of those names."""
    gauges: GaugeOptions = GaugeOptions()
    """Gauges of the representation while the run trains, in the log and its curves. They change nothing of the run."""
    profile: Natural = 0
    """Number of steps to profile, from the start of this command; the profile is written to the run's folder."""


def pretrain(args: list[str]) -> int | None:
    words = ["pretrain", *args]
    shown = PretrainOptions(recipe("acl/cifar10"))
    config, args = Config.take(args)
    typed, args = take_option(args, "--recipe")
    name, config = named_recipe(config)
    if typed is None and (name is None or (args and not args[0].startswith("-"))):
        what = "acl/cifar10; `unshaken list` shows them all; or mine.py:recipe, one of your own"
        typed, args = subject(args, "pretrain", "RECIPE", what, shown)
    # the code of a recipe of one's own runs if its name is typed, not if a file says it
    default = own_recipe(typed) if typed and is_own_recipe(typed) else recipe(typed or name or "")
    options = parse(PretrainOptions(default), extra_data(args), f"unshaken pretrain {typed or name}", config)
    check_json(options)
    chosen = on_its_split(options.recipe, default)
    own = bool(typed) and is_own_recipe(typed)  # its author chose its epochs and its batch
    fixed = {name for name in ("epochs", "batch_size") if own or is_typed(name, args, config)}
    if not options.dry_run and (code := train_on_devices(options.runtime, words)) is not None:
        return code
    if isinstance(chosen, Pretrain) and not options.dry_run:
        options.runtime.join()
        known = (chosen, fixed, options.runtime, options.out, options.hours)
        chosen, runtime = processes().in_turn(lambda: remembered(*known))
        options = replace(options, runtime=runtime)
    remark(chosen, default)
    if options.profile and not isinstance(chosen, Pretrain):
        raise ValueError(f"--profile looks at a single run, and {chosen.name} is several; profile {chosen.teacher}")
    if options.dry_run:
        if not isinstance(chosen, Pretrain):
            raise ValueError(f"{chosen.name} is made of several runs: --dry-run {chosen.teacher} first")
        dry_run(chosen, fixed, options)
        return None
    with guard_signals(options.stop_after):
        workspace = Workspace(options.out, options.runtime, options.save_every, profile=options.profile)
        workspace = replace(workspace, gauges=options.gauges)
        workspace = workspace.observed_by(trackers(options.observe))
        run = runs.pretrain(chosen, workspace)
    close(run, "encoder.safetensors", f"unshaken finetune {run}")
    return None


def check_json(options: Any) -> None:
    """Raise ValueError for --json without --dry-run: a training has a log, log.jsonl, in its folder."""
    if options.json and not options.dry_run:
        raise ValueError("--json is for the plan: add --dry-run; a run's folder has its log as JSON, log.jsonl")


def is_typed(name: str, args: list[str], config: Config) -> bool:
    """Return whether a field of the recipe was set, on the command line or in a file; num_epochs stands for epochs."""
    typed, option = {group[0].removeprefix("--") for group in flag_groups(args)}, name.replace("_", "-")
    aliases = {alias for alias, meanings in ALIASES.items() if option in meanings}
    return bool(typed & {name, option, *aliases}) or name in config.values


def dry_run(chosen: Pretrain, typed: set[str], options: PretrainOptions) -> None:
    """Print the plan of a pre-training, with what would be chosen for it. Writes nothing."""
    if not is_open(chosen, typed):
        print_plan(*pretrain_plan(chosen, options.runtime), options.json)
        return
    images, count = some_training_images(chosen)
    choice = choose(chosen, typed, options.runtime, options.hours, images, count)
    assert choice.trial is not None  # it was made now
    print_plan(choice.trial, list(choice.lines)[len(choice.trial.lines()) :], options.json)


def print_plan(trial: Trial, notes: list[str], as_json: bool) -> None:
    """Print the plan of a training as lines, or as JSON."""
    if as_json:
        print(json.dumps(trial.record() | {"notes": notes}, indent=1, ensure_ascii=False))
    else:
        print("\n".join([*trial.lines(), *notes]))


def named_recipe(config: Config) -> tuple[str | None, Config]:
    """Return the recipe that a file names, METHOD or METHOD/SET, and the file without it.

    A run's recipe.json names the method, and the set if it is a standard one; others may have `recipe: acl/digits`.
    """
    if not config.of_run:
        return config.take_value("recipe")
    name, config = config.take_value("name")
    data = config.values.get("data", {}).get("name")
    return (f"{name}/{data}" if data in DATASETS else name), config


def on_its_split(chosen: Pretrain | LPAFF, default: Pretrain | LPAFF) -> Pretrain | LPAFF:
    """Take the train split if a recipe for STL-10 gets other images: only STL-10 has an unlabeled split."""
    if chosen.data.name != default.data.name and chosen.split == default.split == "unlabeled":
        return replace(chosen, split="train")
    return chosen


def remark(chosen: Any, default: Any = None) -> None:
    """Print a note about schedules longer than the run, and about a rate for another optimizer."""
    stairs = [(name, "every") for name in ("strength", "approximations.steps", "approximations.side")]
    epochs = getattr(chosen, "epochs", None)
    for name, field in (("lr", "warmup"), ("coreset", "warmup"), *stairs) if epochs else ():
        lasting = getattr(reduce(lambda part, word: getattr(part, word, None), name.split("."), chosen), field, 0)
        if lasting and lasting >= epochs:  # pyright: ignore[reportOperatorIssue]
            note(f"--{name} is made for more than {lasting} epochs, but there are {epochs}")
    lr = getattr(chosen, "lr", None)
    at = lr.at if isinstance(lr, MultiStep) else ()
    if epochs and (unmet := [epoch for epoch in at if epoch >= epochs]):
        falls = ", ".join(map(str, unmet))
        note(f"--lr.at: the rate never falls at {falls}, for the run has {amount(epochs, 'epoch')}, counted from 0")
    rule, before = getattr(chosen, "optimizer", None), getattr(default, "optimizer", None)
    if type(rule) is not type(before) and rule and before and chosen.lr == default.lr:
        lr = next((name for name in ("peak", "value") if hasattr(chosen.lr, name)), None)
        if lr is not None:
            kind, was = type(rule).__name__, type(before).__name__
            value = getattr(chosen.lr, lr)
            note(f"{kind} keeps the rate of {was}, {value:g}: --lr.{lr} sets another")


def note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)
