"""`unshaken doctor`: check in two minutes that an evaluation can be believed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from unshaken.attacks.ball import Ball, Linf
from unshaken.base.amounts import amount
from unshaken.base.ranges import Count, Natural, Whole, ranged
from unshaken.base.tensor_file import read_header
from unshaken.base.terminal import console, printable
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.diagnostics.constant_answer import constant
from unshaken.diagnostics.doctor import Checked
from unshaken.diagnostics.subject import Finding
from unshaken.interop.import_checkpoint import ImportOptions
from unshaken.interop.imported_files import import_file
from unshaken.interop.load import file_in
from unshaken.layouts.foreign import file_format
from unshaken.nets.checkpoint import FORMAT, backbone_of, read_tensors
from unshaken.nets.locate import locate
from unshaken.options import only_options_of, parse, subject
from unshaken.recipes.datasets import defaults_for
from unshaken.report.records import TableOptions, print_records
from unshaken.runs import doctor as checks

BARE = "an encoder without a classifier, and the doctor examines answers"


@dataclass(frozen=True)
@ranged
class DoctorOptions(TableOptions):
    """Look for signs that a network seems robust only because an attack fails, or the set-up is wrong.

    The exit code is 0 without a finding, and 1 with one. A checkpoint of other code also takes the options of `unshaken
    import`.
    """

    data: DataSource
    """Data set whose test images are used; by default the one of the fine-tuning."""
    ball: Ball
    """Perturbations that the attacks may make; by default those of the data set."""
    limit: Count = 192
    """Number of test images, drawn at random."""
    attacked: Natural = 48
    """Number of these images that are also attacked; 0 makes no attacks."""
    seed: Whole = 1
    """Seed of the draw and of the attacks."""
    runtime: Runtime = Runtime()
    """Device and precision."""

    def __post_init__(self) -> None:
        if self.limit < 1 or self.attacked < 0:
            raise ValueError(f"the doctor takes limit ≥ 1 and attacked ≥ 0, not {self.limit} and {self.attacked}")


def doctor(args: list[str]) -> int:
    """Check a classifier. Returns 1 if there are findings, and 0 otherwise."""
    what = "a fine-tuning run's folder, a classifier file, OWNER/NAME on the Hub, or what `unshaken import` reads"
    name, rest = subject(args, "doctor", "CHECKPOINT", what, DoctorOptions(DataSource("cifar10"), Linf()))
    with TemporaryDirectory() as folder:
        file, rest = _classifier(locate(name), rest, Path(folder))
        net, file, about, source = checks.read_classifier(file)
        options = DoctorOptions(source, defaults_for(source).ball)
        # ε is that of the named set, unless it is named too.
        data = parse(options, rest, f"unshaken doctor {name}").data
        options = parse(replace(options, ball=defaults_for(data).ball), rest, f"unshaken doctor {name}")
        images = checks.test_images(options.data, backbone_of(about), len(about["names"]))
        seen = checks.training_images_of(file, source, images)
    how = (options.limit, options.attacked, options.seed, options.runtime)
    if options.for_programs:
        found = list(checks.check_images(net, images, options.ball, seen, *how))
        print_records([record(each) for each in found], options)
        return int(any(each.finding for each in found))
    start, findings, count = monotonic(), [], 0
    for checked in checks.check_images(net, images, options.ball, seen, *how):
        verdict = "left out" if checked.left_out else f"finding, {checked.finding.sure}" if checked.finding else "fine"
        style = "bold red" if checked.finding else "dim" if checked.left_out else "green"
        _say(f"{checked.name:<13}  {verdict}", style)
        findings += [checked.finding] if checked.finding else []
        count += not checked.left_out
    for finding in findings:
        _tell(finding)
    summary = f"{amount(len(findings), 'finding')}" if findings else "nothing found"
    images = checks.random_images(images, options.limit, options.seed)
    attacked, usual = min(options.attacked, len(images)), constant(images)
    _say(
        f"\n{summary}: {count} checks on {amount(len(images), 'image')}, {attacked} of them attacked, "
        f"{monotonic() - start:.0f} s"
    )
    _say(f"always answering {usual['class']!r} is right on {usual['correct']} of these images")
    return int(bool(findings))


def record(checked: Checked) -> dict[str, Any]:
    """Return a check as a record: its verdict is fine, finding or left out."""
    verdict = "left out" if checked.left_out else "finding" if checked.finding else "fine"
    found = {key: getattr(checked.finding, key, None) for key in ("sure", "says", "do")}
    return {"check": checked.name, "verdict": verdict} | found


def _classifier(path: Path, rest: list[str], folder: Path) -> tuple[Path, list[str]]:
    """Return a classifier file and the words that are left. A checkpoint of other code is imported into the folder."""
    options, known = DoctorOptions(DataSource(), Linf()), ImportOptions()
    file = file_in(path)
    if _ours(file):
        if read_tensors(file)[1].get("kind") == "encoder":
            inside = sorted(str(found.parent) for found in file.parent.glob("*/classifier.safetensors"))
            named = (
                f"name one that was fine-tuned on it, {', '.join(inside)}" if inside else "`unshaken finetune` it first"
            )
            raise ValueError(f"{file} is {BARE}: {named}")
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
        return True  # reading it will say what is wrong with it


def _tell(finding: Finding) -> None:
    _say(f"\n{finding.check} ({finding.sure})", "bold")
    _say(finding.says)
    _say(f"What to do: {finding.do}")


def _say(line: str, style: str = "") -> None:
    """Print a line, in colour on a terminal."""
    if not sys.stdout.isatty():
        print(line, flush=True)
        return
    from rich.text import Text

    console().print(Text(printable(line), style))
