"""`unshaken checkup`: how an encoder's embeddings stand attacks and corruptions, without labels"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.json_files import write_bytes, write_json, write_text
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.options import flag_groups, parse, subject
from unshaken.report.checkup_page import page, summary
from unshaken.report.contact_sheet import contact_sheet

from unshaken.runs.checkup import Checkup, checkup as checkup_of  # isort: skip
from unshaken.train.image_sets import slug


@dataclass(frozen=True)
class CheckupOptions:
    """Measure how far an encoder's embeddings move when images are attacked or corrupted, in units of what search and
    hashing notice. The images need no labels."""

    evaluation: Annotated[Checkup, tyro.conf.arg(name="")]
    """The changes to images, and the number of images."""
    data: DataSource
    """Images of your own: a folder, with classes or without. Those for training are taken."""
    before: str | None = None
    """Another encoder, such as the one before it was made robust, to show beside the first."""
    out: Path | None = None
    """Folder of checkup.json, checkup.html and worst.png. By default checkup-DATA beside the encoder."""
    runtime: Runtime = Runtime()
    """Device and precision; embeddings are computed in float32."""


def checkup(args: list[str]) -> None:
    what = "an encoder's file or run, a checkpoint that `unshaken import` reads, or hf/OWNER/NAME"
    name, rest = subject(args, "checkup", "ENCODER", what, CheckupOptions(Checkup(), DataSource("")))
    if not any(group[0] in ("--data.name", "--help", "-h") for group in flag_groups(rest)):
        raise ValueError("name the images by --data: a folder of your own is best")
    options = parse(CheckupOptions(Checkup(), DataSource("")), rest, f"unshaken checkup {name}")
    out = options.out or _folder(name, options.data)
    if out.exists() and not (out / "checkup.json").exists():
        raise ValueError(f"{out} exists already, and holds no check-up; choose another --out")
    found = checkup_of(name, options.data, options.evaluation, options.runtime)
    earlier = checkup_of(options.before, options.data, options.evaluation, options.runtime) if options.before else None
    before = earlier.report if earlier else None
    sheet = None
    if found.worst is not None:
        stream = io.BytesIO()
        contact_sheet(found.worst).save(stream, "PNG")
        sheet = stream.getvalue()
        write_bytes(out / "worst.png", sheet)
    write_text(out / "checkup.html", page(found.report, before, sheet))
    write_json(out / "checkup.json", found.report | ({"before": before} if before else {}))
    print(summary(found.report, before))
    print(f"{out / 'checkup.html'}  page with all numbers and the worst images")


def _folder(name: str, data: DataSource) -> Path:
    path = Path(name)
    if not path.exists():
        return Path("runs") / name.replace("/", "-") / f"checkup-{slug(data)}"
    return (path if path.is_dir() else path.with_suffix("")) / f"checkup-{slug(data)}"
