"""`unshaken robustify`: make a pre-trained encoder robust without labels, and write it in its own form"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.ranges import Natural, NonNegative, ranged
from unshaken.base.suggest import did_you_mean
from unshaken.commands.children import train_on_devices
from unshaken.commands.closing import close
from unshaken.commands.pretrain import check_json, print_plan, remark
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.interop.import_options import ImportOptions
from unshaken.nets.backbone import Backbone
from unshaken.options import extra_data, parse, subject, take_option
from unshaken.recipes.pretrain import Pretrain
from unshaken.recipes.robust import OBJECTIVES, robust_recipe
from unshaken.runs import robustify as runs
from unshaken.runs.trial import pretrain_plan
from unshaken.runs.workspace import Workspace
from unshaken.train.signals import guard_signals

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class RobustifyOptions:
    """Make a pre-trained encoder robust on images without labels. The original is the teacher, and its file gives the
    names, order and dtypes of the weights that are written beside encoder.safetensors. What changed is measured.

    ENCODER is timm/NAME, torchvision/NAME, hf/OWNER/NAME, open_clip/OWNER/NAME, a checkpoint file, or a run. --data
    names the images, such as a folder. --objective is deacl (the default, the most robust with a new head), fare (keeps
    old embeddings, so that a head or an index made for them goes on working), profeat or lore; the other options change
    what it takes by default.
    """

    recipe: Annotated[Pretrain, Flat]
    """Recipe of the training."""
    source: ImportOptions = ImportOptions()
    """Facts about a checkpoint file that it does not say itself, as for `unshaken import`."""
    test: Natural = 256
    """At most this many test images for accuracies before and after, if the images have labels. 0: all."""
    runtime: Runtime = Runtime()
    """Device, precision and threads."""
    out: Path = Path("runs")
    """Folder in which the run makes its own."""
    save_every: NonNegative = 60.0
    """Seconds between checkpoints; 0 saves after every step."""
    stop_after: NonNegative = 0.0
    """Seconds after which the command writes a checkpoint and ends with exit code 75; the same command resumes it. 0
    never stops. At least one step is made."""
    dry_run: bool = False
    """Print the plan without training: images, steps, the expected time from some measured steps, and memory. Only the
    encoder's import is written."""
    json: bool = False
    """Print the plan of --dry-run as JSON."""


def robustify(args: list[str]) -> int | None:
    words = ["robustify", *args]
    shown = RobustifyOptions(robust_recipe(OBJECTIVES[0], "ENCODER", Backbone(), DataSource("photos")))
    name, rest = subject(args, "robustify", "ENCODER", runs.NAMES, shown)
    objective, rest = take_option(extra_data(rest), "--objective")
    data, rest = take_option(rest, "--data.name")
    size, rest = take_option(rest, "--data.size")
    if objective not in (None, *OBJECTIVES):
        hint = did_you_mean(objective, OBJECTIVES)
        raise ValueError(f"there is no objective {objective!r}{hint}; there are {', '.join(OBJECTIVES)}")
    if data is None:
        raise ValueError("`unshaken robustify` needs images: --data FOLDER; their labels are not used for training")
    if size and not size.isdecimal():
        raise ValueError(f"--data.size is a side in pixels, such as 96, not {size!r}")
    source = DataSource(data, size=int(size) if size else None)
    program = f"unshaken robustify {name}"
    placeholder = RobustifyOptions(robust_recipe(objective or OBJECTIVES[0], name, Backbone(), source))
    first = parse(placeholder, rest, program)
    check_json(first)
    if not first.dry_run and (code := train_on_devices(first.runtime, words)) is not None:
        return code
    workspace = Workspace(first.out, first.runtime, first.save_every)
    original = runs.original_of(name, workspace, first.source)
    source = replace(source, limit=first.recipe.data.limit)
    default = RobustifyOptions(runs.recipe_for(original, source, objective or OBJECTIVES[0]))
    options = parse(default, rest, program)
    remark(options.recipe, default.recipe)
    if options.dry_run:
        print_plan(*pretrain_plan(options.recipe, options.runtime), options.json)
        return None
    with guard_signals(options.stop_after):
        run = runs.robustify_from(original, options.recipe, workspace, options.test or None)
    if original.file is not None:
        print(f"{runs.exported_file(run, original)}  the same weights by the names of {original.file.name}")
    print(f"{run}/{runs.CARD}  what changed")
    close(run, "encoder.safetensors", f"unshaken finetune {run}")
    return None
