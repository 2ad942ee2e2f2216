"""`unshaken pretrain`: a recipe by name, with every field of it an option."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.files import read_json
from unshaken.options import parse, subject
from unshaken.recipes.papers import recipe
from unshaken.recipes.plusplus import PlusPlus
from unshaken.recipes.pretrain import Pretrain
from unshaken.train.halt import stopping
from unshaken.train.run import ENDED
from unshaken.train.runtime import Runtime

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Pretraining:
    """Train an encoder: without labels, but for st, sat, trades, sat-rcs and trades-rcs.

    Every field of the recipe is an option by its dotted name. A part is exchanged for another kind by its own name:
    --optimizer SGD, AdamW or LARS; --method.attack.ball L2 or Linf (of AIR: --method.acl.attack.ball); --rate,
    --strength, --savings.steps and --savings.side Constant, Stairs, WarmupCosine or Milestones.
    """

    recipe: Annotated[Pretrain | PlusPlus, Flat]
    runtime: Runtime = Runtime()
    out: Path = Path("runs")
    """Under which folder the run's own is made."""
    save_every: float = 60.0
    """Seconds between checkpoints; 0 saves after every step."""
    stop_after: float = 0.0
    """Seconds after which the command ends as by SIGTERM, with a checkpoint; given again, it goes on. 0: never. Nothing
    is stopped within a step or a selection."""
    profile: int = 0
    """Steps to profile from where the run begins or goes on: profile.md and profile.json.gz in the run's folder."""


def pretrain(args: list[str]) -> None:
    name, rest = subject(args, "pretrain", "RECIPE", "acl/cifar10; `unshaken list` shows them all")
    default = recipe(name)
    options = parse(Pretraining(default), rest, f"unshaken pretrain {name}")
    chosen = options.recipe
    if chosen.data.name != default.data.name and chosen.split == default.split == "unlabeled":
        chosen = replace(chosen, split="train")  # STL-10 alone has an unlabeled split
    remark(chosen)
    how = (options.out, options.runtime, options.save_every)
    if options.profile and not isinstance(chosen, Pretrain):
        raise ValueError(f"--profile looks at a single run, and {chosen.name} is several; profile {chosen.teacher}")
    with stopping(options.stop_after):
        run = chosen.run(*how, profile=options.profile) if options.profile else chosen.run(*how)
    print(f"{run}/encoder.safetensors  digest {read_json(run / 'run.json', ENDED)['digest']}")
    print(f"next: unshaken finetune {run}")


def remark(chosen: Pretrain | PlusPlus) -> None:
    """Say what a short run makes of schedules that were made for a long one."""
    stairs = [(name, "every") for name in ("strength", "savings.steps", "savings.side")]
    for name, field in (("rate", "warmup"), ("coreset", "warmup"), *stairs):
        lasting = getattr(reduce(lambda part, word: getattr(part, word, None), name.split("."), chosen), field, 0)
        if lasting and lasting >= chosen.epochs:
            print(
                f"note: --{name} is made for more than {lasting} epochs, but there are {chosen.epochs}", file=sys.stderr
            )
