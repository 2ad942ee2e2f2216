"""`unshaken finetune`: train a classifier on an encoder, by one mode or by all three."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from unshaken.base.amounts import amount
from unshaken.base.ranges import NonNegative, ranged
from unshaken.commands.children import train_on_devices
from unshaken.commands.closing import close
from unshaken.commands.pretrain import check_json, remark
from unshaken.compute.runtime import Runtime
from unshaken.nets.locate import home_of, is_repo, locate
from unshaken.options import Config, only_options_of, parse, subject, take_list, take_option
from unshaken.recipes.autolora import AutoFinetune
from unshaken.recipes.finetune import MODES, Finetune, named
from unshaken.runs import finetune as runs
from unshaken.runs.trial import finetune_trial
from unshaken.runs.workspace import Workspace
from unshaken.train.signals import guard_signals
from unshaken.train.trackers import trackers

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class FinetuneOptions:
    """Fine-tune an encoder with labels.

    --mode is slf (a linear classifier), alf (the same, under attack), aff (the entire network, under attack), autolora,
    several of them (--mode slf,alf), or all (the first three, the default). The defaults below are those of slf.

    --protocol clean, the default, takes the epochs of the papers. --protocol leaked takes the epochs behind the
    published numbers of AIR, whose code carried one mode's setting over to the next. --protocol acl/cifar10 takes the
    values for encoders of that recipe, whatever pre-trained this one.
    """

    recipe: Annotated[Finetune | AutoFinetune, Flat]
    """Recipe of the fine-tuning."""
    runtime: Runtime = Runtime()
    """Device and precision."""
    out: Path | None = None
    """Folder in which the run creates its own folder; by default the encoder's folder."""
    observe: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ()
    """Tools that get the log while the run trains. csv: metrics.csv in the run's folder. tensorboard, wandb (offline,
    unless WANDB_MODE says otherwise) and mlflow are extras of those names."""
    dry_run: bool = False
    """Print the plan without training: images, steps, the expected time from some measured steps, and memory. No file
    is written."""
    json: bool = False
    """Print the plan of --dry-run as JSON, a list with an object for each mode."""
    save_every: NonNegative = 60.0
    """Seconds between checkpoints; 0 saves after every step."""
    stop_after: NonNegative = 0.0
    """Seconds after which the command writes a checkpoint and ends with exit code 75; the same command resumes the run.
    It ends after a complete step or selection, and makes at least one step. 0 never stops."""


def finetune(args: list[str]) -> int | None:
    words = ["finetune", *args]
    shown = FinetuneOptions(Finetune())
    name, rest = subject(
        args, "finetune", "ENCODER", "a pre-training run's folder, an encoder file, or OWNER/NAME on the Hub", shown
    )
    config, rest = Config.take(rest)
    wanted, rest = take_list(rest, "--mode")
    data, rest = take_option(rest, "--data.name")
    rest = ["--data.size" if word.replace("_", "-") == "--image-size" else word for word in rest]
    size, rest = take_option(rest, "--data.size")
    protocol, rest = take_option(rest, "--protocol")
    given, config = of_file(config)
    wanted, data, size = wanted or given["mode"], data or given["data"], size or given["size"]
    protocol = protocol or given["protocol"]
    like = None if protocol in (None, "clean", "leaked") else protocol
    if like:
        named(like)  # raises the error about a wrong name
    if size and not size.isdecimal():
        raise ValueError(f"--data.size is a side in pixels, such as 32, not {size!r}")
    encoder = locate(name)
    # Presets depend on the data set and on its image size.
    source = runs.labelled_source(encoder, data, int(size) if size else None)
    modes = modes_of(wanted)
    if "autolora" in modes and protocol not in (None, "clean"):
        raise ValueError("autolora has one protocol; leave --protocol out")
    choices = [runs.finetune_recipe(encoder, each, source, protocol == "leaked", like) for each in modes]
    defaults = [FinetuneOptions(choice) for choice in choices]
    program = f"unshaken finetune {name}"
    all_options = [
        parse(
            default,
            only_options_of(default, rest, defaults),
            f"{program} --mode {default.recipe.mode}",
            config,
            defaults,
        )
        for default in defaults
    ]
    first = all_options[0]
    if not first.dry_run and (code := train_on_devices(first.runtime, words)) is not None:
        return code
    if modes != ["autolora"]:
        print(f"protocol: {runs.protocol_for(encoder, source, like).words}", file=sys.stderr)
    for options, default in zip(all_options, defaults, strict=True):
        remark(options.recipe, default.recipe)
    check_json(first)
    if first.dry_run:
        dry_run(encoder, all_options)
        return None
    first.runtime.join()
    with guard_signals(first.stop_after):
        for options in all_options:
            finetune_one(name, encoder, options)
    return None


def dry_run(encoder: Path, all_options: list[FinetuneOptions]) -> None:
    """Print the plan of each mode: its work, expected time and memory. Writes nothing."""
    records = []
    for options in all_options:
        if isinstance(options.recipe, AutoFinetune):
            notes = ["autolora: not measured, because its validation decides on its learning rate"]
            records.append({"name": "autolora", "notes": notes})
            lines = notes
        else:
            trial = finetune_trial(encoder, options.recipe, options.runtime)
            records.append(trial.record() | {"notes": []})
            lines = trial.lines()
        if not options.json:
            print("\n".join(lines))
    if all_options[0].json:
        print(json.dumps(records, indent=1, ensure_ascii=False))


def finetune_one(name: str, encoder: Path, options: FinetuneOptions) -> None:
    """Train one classifier, and print how the run ended.

    name  the encoder as it was typed; what is made from a repository lies under runs/
    """
    print(f"{options.recipe.mode}: {summary(options.recipe)}", file=sys.stderr)
    out = home_of(name) if options.out is None and is_repo(name) else options.out
    workspace = Workspace(out, options.runtime, options.save_every).observed_by(trackers(options.observe))
    run = runs.finetune(encoder, options.recipe, workspace)
    close(run, "classifier.safetensors", f"unshaken evaluate {run}")


def of_file(config: Config) -> tuple[dict[str, Any], Config]:
    """Return what a file of options says of the modes, the images and the protocol, and the file without these."""
    given: dict[str, Any] = {}
    given["mode"], config = config.take_value("mode")
    if config.of_run:  # its method says the mode
        given["mode"] = str(config.values.get("method", {}).get("type", "")).lower()
    given["mode"] = given["mode"].split(",") if given["mode"] else []
    given["data"], config = config.take_value("data", "name")
    given["size"], config = config.take_value("data", "size")
    given["protocol"], config = config.take_value("protocol")
    return {key: None if value == "None" else value for key, value in given.items()}, config


def modes_of(words: list[str]) -> list[str]:
    """The modes to run, each once: all means slf, alf and aff, and so does no word."""
    found = [mode for word in words or ["all"] for mode in (MODES if word.lower() == "all" else (word.lower(),))]
    return list(dict.fromkeys(found))


def summary(recipe: Finetune | AutoFinetune) -> str:
    """The main values of a recipe in one line."""
    limit = f"the first {recipe.data.limit} images of " if recipe.data.limit else ""
    views = type(recipe.views).__name__
    epochs = amount(recipe.epochs, "epoch")
    return f"{limit}{recipe.data.name}, {epochs}, batch {recipe.batch_size}, {recipe.lr}, views {views}"
