"""`unshaken finetune`: train a classifier on an encoder, by one mode or by all three."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.json_files import read_json
from unshaken.base.ranges import NonNegative, ranged
from unshaken.commands.pretrain import remark
from unshaken.compute.runtime import Runtime
from unshaken.options import only_options_of, parse, subject, take_option
from unshaken.recipes.autolora import AutoFinetune, autolora
from unshaken.recipes.finetune import MODES, Finetune, named
from unshaken.runs import finetune as runs
from unshaken.runs.workspace import Workspace
from unshaken.train.run_dir import RUN_FILE
from unshaken.train.signals import guard_signals

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class FinetuneOptions:
    """Fine-tune an encoder with labels.

    --mode is slf, alf, aff, all (these three, the default) or autolora.

    --protocol clean, the default, takes the epochs of the papers. --protocol leaked takes the epochs of the published
    AIR numbers, where one mode's setting leaked into the next. --protocol acl/cifar10 takes the values for encoders of
    that recipe, whatever pre-trained this one.
    """

    recipe: Annotated[Finetune | AutoFinetune, Flat]
    """Recipe of the fine-tuning."""
    runtime: Runtime = Runtime()
    """Device and precision."""
    out: Path | None = None
    """Folder in which the run makes its own; by default the encoder's."""
    save_every: NonNegative = 60.0
    """Seconds between checkpoints; 0 saves after every step."""
    stop_after: NonNegative = 0.0
    """Seconds after which the command writes a checkpoint and ends with exit code 75; the same command resumes it. 0
    never stops. At least one step is made, and no step or selection is cut short."""


def finetune(args: list[str]) -> None:
    shown = FinetuneOptions(Finetune())
    name, rest = subject(args, "finetune", "ENCODER", "a pre-training run's folder or an encoder file", shown)
    mode, rest = take_option(rest, "--mode")
    data, rest = take_option(rest, "--data.name")
    rest = ["--data.size" if word.replace("_", "-") == "--image-size" else word for word in rest]
    size, rest = take_option(rest, "--data.size")
    protocol, rest = take_option(rest, "--protocol")
    like = None if protocol in (None, "clean", "leaked") else protocol
    if like:
        named(like)  # raises the error about a wrong name
    if size and not size.isdecimal():
        raise ValueError(f"--data.size is a side in pixels, such as 32, not {size!r}")
    encoder = Path(name)
    # Presets depend on the data set and on its image size.
    source = runs.labelled_source(encoder, data, int(size) if size else None)
    if mode == "autolora":
        if protocol not in (None, "clean"):
            raise ValueError("autolora has one protocol; leave --protocol out")
        choices = [autolora(source)]
    else:
        modes = MODES if mode in (None, "all") else (mode,)
        choices = [runs.finetune_recipe(encoder, each, source, protocol == "leaked", like) for each in modes]
        print(f"protocol: {runs.protocol_for(encoder, source, like).words}", file=sys.stderr)
    defaults = [FinetuneOptions(choice) for choice in choices]
    program = f"unshaken finetune {name}"
    all_options = [
        parse(default, only_options_of(default, rest, defaults), f"{program} --mode {default.recipe.mode}")
        for default in defaults
    ]
    for options, default in zip(all_options, defaults, strict=True):
        remark(options.recipe, default.recipe)
    with guard_signals(all_options[0].stop_after):
        for options in all_options:
            print(f"{options.recipe.mode}: {summary(options.recipe)}", file=sys.stderr)
            workspace = Workspace(options.out, options.runtime, options.save_every)
            run = runs.finetune(encoder, options.recipe, workspace)
            print(f"{run}/classifier.safetensors  digest {read_json(run / 'run.json', RUN_FILE)['digest']}")
            print(f"next: unshaken evaluate {run}")


def summary(recipe: Finetune | AutoFinetune) -> str:
    """The main values of a recipe in one line."""
    limit = f"the first {recipe.data.limit} images of " if recipe.data.limit else ""
    views = type(recipe.views).__name__
    return f"{limit}{recipe.data.name}, {recipe.epochs} epochs, batch {recipe.batch_size}, {recipe.lr}, views {views}"
