"""`unshaken dial`: what each setting between the original and the robust encoder costs and gains"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unshaken.base.json_files import write_json, write_text
from unshaken.charts.svg import panels
from unshaken.compute.runtime import Runtime
from unshaken.data.source import DataSource
from unshaken.evaluation.protocol import Evaluation
from unshaken.options import flag_groups, parse, subject

from unshaken.runs.dial import Dial, dial as measured  # isort: skip
from unshaken.runs.evaluate import default_evaluation
from unshaken.train.image_sets import slug

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class DialOptions(Dial):
    """Measure clean and robust accuracy of weights between the original encoder and the robust one, or between the
    clean and the adversarial route, as a curve. `unshaken export` has --dial too, which writes one setting."""

    evaluation: Annotated[Evaluation, Flat]
    """The measurements at each setting; with --autoattack apgd also APGD."""
    data: DataSource
    """Labelled images: test images are judged, and class means come from training images."""
    out: Path | None = None
    """Folder of dial.json and dial.svg. By default dial-DATA beside the encoder."""
    runtime: Runtime = Runtime()
    """Device and precision."""


def dial(args: list[str]) -> None:
    default = DialOptions(evaluation=Evaluation(), data=DataSource(""))
    name, rest = subject(args, "dial", "ENCODER", "an encoder's file or run", default)
    if not any(group[0] in ("--data.name", "--help", "-h") for group in flag_groups(rest)):
        raise ValueError("name the labelled images by --data")
    source = parse(default, rest, f"unshaken dial {name}").data
    options = parse(replace(default, evaluation=default_evaluation(source)), rest, f"unshaken dial {name}")
    path = Path(name)
    out = options.out or (path if path.is_dir() else path.with_suffix("")) / f"dial-{slug(source)}"
    if out.exists() and not (out / "dial.json").exists():
        raise ValueError(f"{out} exists already, and holds no dial; choose another --out")
    found = measured(path, options.data, options, options.evaluation, options.runtime)
    scores = [score for score in ("clean", "robust", "autoattack") if score in found[0]]
    series = {score: [(each["dial"], each[score]["percent"]) for each in found] for score in scores}
    write_text(out / "dial.svg", panels({"accuracy, %": series}, "dial", f"Dial of {path.name}", alone=True))
    write_json(out / "dial.json", {"points": found})
    print("  ".join(f"{word:>14}" for word in ("dial", *scores)))
    for each in found:
        cells = [f"{each[score]['percent']:.1f} % ({each[score]['correct']})" for score in scores]
        print("  ".join(f"{word:>14}" for word in (f"{each['dial']:g}", *cells)))
    print(f"{found[0]['clean']['n']} test images, {found[0]['attack']}; {out / 'dial.svg'} shows the curve")
