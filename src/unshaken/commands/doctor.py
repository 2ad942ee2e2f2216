"""`unshaken doctor`: whether the evaluation of a classifier can be believed, in two minutes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import torch

from unshaken.attacks.ball import Ball, Linf
from unshaken.base.ranges import Count, Natural, Whole, ranged
from unshaken.base.rng import Key
from unshaken.base.tensor_file import read_header
from unshaken.base.terminal import console, printable
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.data.source import KNOWN, UNKNOWN, DataSource
from unshaken.diagnostics.constant_answer import constant
from unshaken.diagnostics.doctor import Checked, run_checks
from unshaken.diagnostics.leak import leak
from unshaken.diagnostics.subject import Finding, ModelUnderTest
from unshaken.interop.foreign import file_format
from unshaken.interop.import_checkpoint import ImportOptions
from unshaken.interop.imported_files import import_file
from unshaken.interop.load import file_in
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import (
    FORMAT,
    backbone_of,
    digest,
    load_classifier,
    load_encoder,
    read_tensors,
    readable_header,
)
from unshaken.nets.dual_bn import routes_of, single_route
from unshaken.nets.network import Network
from unshaken.options import meant_for, parse, subject
from unshaken.recipes.datasets import defaults_for, source_of
from unshaken.recipes.pretrain import check_images_fit
from unshaken.train.training_images import TrainingImages

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
        net, about = load_classifier(file)
        with readable_header(file):
            tuned_on = source_of(about["finetune"]["recipe"]["data"], file.parent)
        net = _with_routes(net, file)
    visit = DoctorOptions(tuned_on, defaults_for(tuned_on).ball)
    # ε goes with the set that is named, unless it is named too
    data = parse(visit, rest, f"unshaken doctor {name}").data
    visit = parse(replace(visit, ball=defaults_for(data).ball), rest, f"unshaken doctor {name}")
    images = _images(visit, backbone_of(about), len(about["names"]))
    overlap = _learned(file, tuned_on, images).overlap(images)
    leaked = Checked("leak", leak(overlap), left_out=not overlap.known)
    order = torch.randperm(len(images), generator=(Key(visit.seed) / "images").on("cpu"))
    return _examined(visit, net, images[order[: visit.limit]], leaked)


def _classifier(path: Path, rest: list[str], folder: Path) -> tuple[Path, list[str]]:
    """The classifier's file, imported into the folder if it is not one of ours; and the arguments that are left."""
    visit, known = DoctorOptions(DataSource(), Linf()), ImportOptions()
    file = file_in(path)
    if _ours(file):
        if read_tensors(file)[1].get("kind") == "encoder":
            raise ValueError(f"{file} is {BARE}: name a run of `unshaken finetune` on it")
        return file, rest
    known = parse(known, meant_for(known, rest, [visit]), f"unshaken import {path}")
    written = import_file(file, replace(known, out=folder / "theirs", classifier=True))
    if written.classifier is None:
        raise ValueError(f"{path} is {BARE}: `unshaken import` it, then `unshaken finetune` it")
    return written.classifier / "classifier.safetensors", meant_for(visit, rest, [known])


def _ours(file: Path) -> bool:
    if file_format(file) != "safetensors":
        return False
    try:
        return read_header(file).metadata.get("format") == FORMAT
    except ValueError:
        return True  # whoever reads it will say what is wrong with it


def _with_routes(net: Network, file: Path) -> Network:
    """The classifier on the encoder that it was put on, with all routes, if that lies where it was made."""
    beside = file.parent.parent / "encoder.safetensors"
    if beside.exists():
        encoder, _, _ = load_encoder(beside)
        if len(routes_of(encoder)) > 1 and digest(single_route(encoder, "adv")) == digest(net.encoder):
            net = Network(encoder, net.head)
    return net.eval().requires_grad_(False)


def _images(visit: DoctorOptions, backbone: Backbone, classes: int) -> Images:
    images = check_images_fit(replace(visit.data, size=visit.data.size or backbone.image_size).load("test"), backbone)
    if images.label is None or len(images.names) != classes:
        has = "no labels" if images.label is None else f"{len(images.names)} classes"
        raise ValueError(f"{images.name} has {has} and the classifier {classes} classes; name its set by --data")
    return images


def _learned(file: Path, tuned_on: DataSource, images: Images) -> TrainingImages:
    """What the classifier has learned from: as its run noted it, else the training images of a set of one's own."""
    seen = TrainingImages.beside(file)
    if seen.finetune is None and tuned_on.name not in (*KNOWN, UNKNOWN):
        train = replace(tuned_on, size=images.pixels.shape[-1]).load("train")
        seen = replace(seen, finetune=train.image_digests.numpy())
    return seen


def _examined(visit: DoctorOptions, net: Network, images: Images, leaked: Checked) -> int:
    fabric = replace(visit.runtime, precision="float32").open()
    net, images, begun = net.to(fabric.device), images.to(fabric.device), monotonic()
    key = Key(visit.seed) / "doctor"
    patient = ModelUnderTest(lambda x: net(x, "adv"), images.floats(), images.label, visit.ball, key, net)  # pyright: ignore[reportArgumentType]
    findings, made = [], 0
    for checked in chain([leaked], run_checks(patient, visit.attacked)):
        verdict = "left out" if checked.left_out else f"finding, {checked.finding.sure}" if checked.finding else "fine"
        _say(
            f"{checked.name:<13}  {verdict}", "bold red" if checked.finding else "dim" if checked.left_out else "green"
        )
        findings += [checked.finding] if checked.finding else []
        made += not checked.left_out
    for finding in findings:
        _tell(finding)
    count = f"{len(findings)} finding{'s' * (len(findings) > 1)}" if findings else "nothing found"
    attacked, usual = min(visit.attacked, len(images)), constant(images)
    _say(f"\n{count}: {made} checks on {len(images)} images, {attacked} of them to attack, {monotonic() - begun:.0f} s")
    _say(f"whoever always answers {usual['class']!r} is right on {usual['correct']} of these images")
    return int(bool(findings))


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
