"""`unshaken doctor`: whether the evaluation of a classifier can be believed, in two minutes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from unshaken.attacks.ball import Ball, Linf
from unshaken.base.ranges import Count, Natural, Whole, ranged
from unshaken.base.tensor_file import read_header
from unshaken.base.terminal import console, printable
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.diagnostics.constant_answer import constant
from unshaken.diagnostics.subject import Finding
from unshaken.interop.foreign import file_format
from unshaken.interop.import_checkpoint import ImportOptions
from unshaken.interop.imported_files import import_file
from unshaken.interop.load import file_in
from unshaken.nets.checkpoint import FORMAT, backbone_of, read_tensors
from unshaken.options import only_options_of, parse, subject
from unshaken.recipes.datasets import defaults_for
from unshaken.runs import doctor as checks

BARE = "an encoder without a classifier, and only answers can be examined"


@dataclass(frozen=True)
@ranged
class DoctorOptions:
    """Look for signs that an attack fails, or the set-up does, and not the defence.

    Exit code 0 if nothing was found, 1 if something was. A checkpoint of somebody else's takes the options of
    `unshaken import` too.
    """

    data: DataSource
    """Whose test images; by default of the set that the classifier was fine-tuned on."""
    ball: Ball
    """What the adversary of the evaluation may do; by default what goes with the set."""
    limit: Count = 192
    """So many test images, drawn from all of them."""
    attacked: Natural = 48
    """So many of these are attacked too; 0 leaves attacks out."""
    seed: Whole = 1
    runtime: Runtime = Runtime()

    def __post_init__(self) -> None:
        if self.limit < 1 or self.attacked < 0:
            raise ValueError(f"the doctor takes limit ≥ 1 and attacked ≥ 0, not {self.limit} and {self.attacked}")


def doctor(args: list[str]) -> int:
    """Exit code 1 if there are findings."""
    what = "a fine-tuning run's folder, a classifier file, or a checkpoint that `unshaken import` reads"
    name, rest = subject(args, "doctor", "CHECKPOINT", what, DoctorOptions(DataSource("cifar10"), Linf()))
    with TemporaryDirectory() as folder:
        file, rest = _classifier(Path(name), rest, Path(folder))
        net, file, about, source = checks.read_classifier(file)
        options = DoctorOptions(source, defaults_for(source).ball)
        # ε goes with the set that is named, unless it is named too
        data = parse(options, rest, f"unshaken doctor {name}").data
        options = parse(replace(options, ball=defaults_for(data).ball), rest, f"unshaken doctor {name}")
        images = checks.test_images(options.data, backbone_of(about), len(about["names"]))
        seen = checks.learned_from(file, source, images)
    how = (options.limit, options.attacked, options.seed, options.runtime)
    begun, findings, made = monotonic(), [], 0
    for checked in checks.examine_images(net, images, options.ball, seen, *how):
        verdict = "left out" if checked.left_out else f"finding, {checked.finding.sure}" if checked.finding else "fine"
        style = "bold red" if checked.finding else "dim" if checked.left_out else "green"
        _say(f"{checked.name:<13}  {verdict}", style)
        findings += [checked.finding] if checked.finding else []
        made += not checked.left_out
    for finding in findings:
        _tell(finding)
    count = f"{len(findings)} finding{'s' * (len(findings) > 1)}" if findings else "nothing found"
    images = checks.drawn(images, options.limit, options.seed)
    attacked, usual = min(options.attacked, len(images)), constant(images)
    _say(f"\n{count}: {made} checks on {len(images)} images, {attacked} of them to attack, {monotonic() - begun:.0f} s")
    _say(f"whoever always answers {usual['class']!r} is right on {usual['correct']} of these images")
    return int(bool(findings))


def _classifier(path: Path, rest: list[str], folder: Path) -> tuple[Path, list[str]]:
    """The classifier's file, imported into the folder if it is not one of ours; and the arguments that are left."""
    options, known = DoctorOptions(DataSource(), Linf()), ImportOptions()
    file = file_in(path)
    if _ours(file):
        if read_tensors(file)[1].get("kind") == "encoder":
            raise ValueError(f"{file} is {BARE}: name a run of `unshaken finetune` on it")
        return file, rest
    known = parse(known, only_options_of(known, rest, [options]), f"unshaken import {path}")
    written = import_file(file, replace(known, out=folder / "theirs", classifier=True))
    if written.classifier is None:
        raise ValueError(f"{path} is {BARE}: `unshaken import` it, then `unshaken finetune` it")
    return written.classifier / "classifier.safetensors", only_options_of(options, rest, [known])


def _ours(file: Path) -> bool:
    if file_format(file) != "safetensors":
        return False
    try:
        return read_header(file).metadata.get("format") == FORMAT
    except ValueError:
        return True  # whoever reads it will say what is wrong with it


def _tell(finding: Finding) -> None:
    _say(f"\n{finding.check} ({finding.sure})", "bold")
    _say(finding.says)
    _say(f"What to do: {finding.do}")


def _say(line: str, style: str = "") -> None:
    """In colour on a terminal, as plain text elsewhere."""
    if not sys.stdout.isatty():
        print(line, flush=True)
        return
    from rich.text import Text

    console().print(Text(printable(line), style))
