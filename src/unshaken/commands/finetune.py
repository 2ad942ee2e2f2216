"""`unshaken finetune`: an encoder, one mode or all three."""

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
from unshaken.train.run_dir import ENDED
from unshaken.train.signals import guard_signals

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class FinetuneOptions:
    """Fine-tune an encoder with labels.

    --mode slf, alf, aff, or all of these three (the default); or autolora. --protocol leaked takes the epochs that the
    published AIR numbers were fine-tuned for in fact, where one mode's setting leaked into the next; clean, the
    default, those meant; acl/cifar10, say, takes what goes with encoders of that recipe, whatever this one is.
    """

    recipe: Annotated[Finetune | AutoFinetune, Flat]
    runtime: Runtime = Runtime()
    out: Path | None = None
    """Under which folder the run's own is made; beside the encoder if it is not given."""
    save_every: NonNegative = 60.0
    """Seconds between checkpoints; 0 saves after every step."""
    stop_after: NonNegative = 0.0
    """Seconds after which the command ends, with a checkpoint and exit code 75; given again, it goes on from there. 0:
    never. It makes one step at least; nothing is stopped within a step or a selection."""


def finetune(args: list[str]) -> None:
    shown = FinetuneOptions(Finetune())
    name, rest = subject(args, "finetune", "ENCODER", "a pre-training run's folder or an encoder file", shown)
    mode, rest = take_option(rest, "--mode")
    data, rest = take_option(rest, "--data.name")
    size, rest = take_option(rest, "--data.size")
    epochs, rest = take_option(rest, "--protocol")
    like = None if epochs in (None, "clean", "leaked") else epochs
    if like:
        named(like)  # which says what is wrong with it
    if size and not size.isdecimal():
        raise ValueError(f"--data.size is a side in pixels, such as 32, not {size!r}")
    encoder = Path(name)
    source = runs.labelled_source(encoder, data, int(size) if size else None)  # presets go by the set, and by its size
    if mode == "autolora":
        if epochs not in (None, "clean"):
            raise ValueError("autolora has one protocol; leave --protocol out")
        choices = [autolora(source)]
    else:
        modes = MODES if mode in (None, "all") else (mode,)
        choices = [runs.finetune_recipe(encoder, each, source, epochs == "leaked", like) for each in modes]
        print(f"protocol: {runs.protocol_for(encoder, source, like).words}", file=sys.stderr)
    defaults = [FinetuneOptions(choice) for choice in choices]
    all_options = [
        parse(default, only_options_of(default, rest, defaults), f"unshaken finetune {name} --mode {default.recipe.mode}")
        for default in defaults
    ]
    for options, default in zip(all_options, defaults, strict=True):
        remark(options.recipe, default.recipe)
    with guard_signals(all_options[0].stop_after):
        for options in all_options:
            print(f"{options.recipe.mode}: {described(options.recipe)}", file=sys.stderr)
            workspace = Workspace(options.out, options.runtime, options.save_every)
            run = runs.finetune(encoder, options.recipe, workspace)
            print(f"{run}/classifier.safetensors  digest {read_json(run / 'run.json', ENDED)['digest']}")
            print(f"next: unshaken evaluate {run}")


def described(chosen: Finetune | AutoFinetune) -> str:
    """The few choices that a reader of a table asks for."""
    limit = f"the first {chosen.data.limit} images of " if chosen.data.limit else ""
    views = type(chosen.views).__name__
    return f"{limit}{chosen.data.name}, {chosen.epochs} epochs, batch {chosen.batch_size}, {chosen.lr}, views {views}"
