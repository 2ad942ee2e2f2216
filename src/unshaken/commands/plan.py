"""`unshaken plan`: what this machine can do with a recipe in a given time, as commands."""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unshaken.base.amounts import amount
from unshaken.base.ranges import Positive, ranged
from unshaken.compute.runtime import Runtime
from unshaken.options import extra_data, number_text, parse, subject
from unshaken.recipes.catalog import recipe
from unshaken.recipes.lp_aff import LPAFF
from unshaken.recipes.pretrain import Pretrain
from unshaken.report.records import TableOptions, print_records
from unshaken.runs.plan import Plan, make_plan, teacher_recipe

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
@ranged
class PlanOptions(TableOptions):
    """Plan what this machine can do with a recipe in a given time, and print the commands.

    A few seconds of real steps measure the speed of each stage. Nothing is trained, and nothing is written.
    """

    recipe: Annotated[Pretrain | LPAFF, Flat]
    """Recipe of the pre-training."""
    seconds: Positive = 600.0
    """Time for everything: a teacher if the recipe has one, pre-training, SLF, PGD-20 and AutoAttack."""
    runtime: Runtime = Runtime(precision="auto")
    """Device and precision."""


def plan(args: list[str]) -> None:
    shown = PlanOptions(recipe("acl/cifar10"))
    name, rest = subject(args, "plan", "RECIPE", "acl/cifar10; `unshaken list` shows them all", shown)
    options = parse(PlanOptions(recipe(name)), extra_data(rest), f"unshaken plan {name}")
    if not isinstance(options.recipe, Pretrain):
        raise ValueError(f"{options.recipe.name} is made of several recipes: plan {options.recipe.teacher} first")
    found = make_plan(options.recipe, options.seconds, options.runtime, tell=lambda line: print(line, file=sys.stderr))
    if options.for_programs:
        print_records(records(found, commands(name, options.recipe, found)), options)
        return
    for line in [*table(found), "", *commands(name, options.recipe, found)]:
        print(line)


def table(found: Plan) -> list[str]:
    """The stages of a plan as lines of text, with notes about the choices."""
    how = f"{amount(found.images, 'image')}, {found.runtime.precision} on {found.runtime.kind}"
    lines = [f"{found.budget:,.0f} s on this machine: {how}; {found.seconds:,.0f} s are planned"]
    lines += [f"{'stage':<12}{'epochs':>7}{'batch':>7}{'images/s':>11}{'seconds':>9}"]
    for stage in found.stages:
        speed = f"{stage.images_s:,.0f}" if stage.recipe else "-"
        batch = stage.recipe.batch_size if stage.recipe else "-"
        lines.append(f"{stage.name:<12}{stage.epochs or '-':>7}{batch:>7}{speed:>11}{stage.seconds:>9,.0f}")
    return [*lines, *(f"note: {note}" for note in found.notes)]


def records(found: Plan, lines: list[str]) -> list[dict[str, Any]]:
    """Return the stages of a plan as records, each with the command that carries it out, if it has one of its own."""
    own = dict(zip([stage.name for stage in found.stages if stage.recipe], lines, strict=False))
    own["evaluation"] = lines[-1]
    return [
        {
            "stage": stage.name,
            "epochs": stage.epochs,
            "batch": stage.recipe.batch_size if stage.recipe else None,
            "images_per_second": round(stage.images_s, 1),
            "seconds": round(stage.seconds, 1),
            "command": own.get(stage.name),
        }
        for stage in found.stages
    ]


def commands(name: str, wanted: Pretrain, found: Plan) -> list[str]:
    """The commands that carry a plan out."""
    how = f"--runtime.precision {found.runtime.precision}"
    if "computation" in found.runtime.identity:
        how += f" --runtime.computation {' '.join(found.runtime.computation)}"
    given, teacher = _options(recipe(name), wanted), teacher_recipe(wanted)
    lines, chosen = [], found.stage("pretrain").recipe
    if teacher is not None:
        planned = found.stage("teacher").recipe
        lines.append(f"unshaken pretrain {wanted.teacher} {_options(recipe(wanted.teacher), planned)} {how}")  # pyright: ignore[reportArgumentType]
        given = f"--teacher RUN {given}"
    lines.append(f"unshaken pretrain {name} {' '.join(filter(None, [given, _options(wanted, chosen)]))} {how}")
    slf = found.stage("slf").recipe
    lines.append(f"unshaken finetune RUN --mode slf --epochs {slf.epochs} {how}")
    lines.append(f"unshaken evaluate RUN --autoattack standard --until 1.0 {how}")
    return lines


def _options(default: Pretrain | LPAFF, value: Any) -> str:
    return " ".join(
        number_text(word) if isinstance(word, float) else f"{word}" for word in differences(default, value)
    ).replace("--data.name", "--data")


def differences(default: Any, value: Any, prefix: str = "--") -> list[str | int | float | Path]:
    """The flags and values that turn one recipe into the other."""
    found: list[Any] = []
    for field in fields(value):
        old, new = getattr(default, field.name), getattr(value, field.name)
        if old == new or field.name == "name" and prefix == "--":
            continue
        flag = prefix + field.name.replace("_", "-")
        if is_dataclass(new) and type(new) is type(old):
            found += differences(old, new, f"{flag}.")
        elif is_dataclass(new):
            needed = [getattr(new, each.name) for each in fields(new) if each.default is MISSING]
            found += [flag, type(new).__name__, *differences(type(new)(*needed), new, f"{flag}.")]
        else:
            found += [flag, *new] if isinstance(new, tuple) else [flag, new]
    return found
