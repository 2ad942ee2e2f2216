"""`unshaken import`, `export` and `verify`: checkpoints of other code, for it, and unchanged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from unshaken.base.json_files import add_checksum, add_checksums_to_lines
from unshaken.base.ranges import Count, Whole, ranged
from unshaken.base.suggest import closest
from unshaken.compute.runtime import Runtime
from unshaken.evaluation.result_file import read_result
from unshaken.interop.export import ExportOptions, export, page_of
from unshaken.interop.fingerprint import verify_fingerprint, write_fingerprint
from unshaken.interop.import_checkpoint import UNKNOWN, ImportOptions
from unshaken.interop.imported_files import Written, import_file, import_timm
from unshaken.interop.layouts import LAYOUTS
from unshaken.nets import checkpoint as saved
from unshaken.options import parse, subject
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.finetune_presets import PRESETS
from unshaken.runs.verify import recheck


def import_(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print(layouts())
        raise SystemExit(0)
    name, _ = subject(args, "import", "FILE", "a checkpoint of other code; `unshaken import --help` lists layouts")
    # `unshaken pretrain` calls this option --backbone.name.
    rest = [re.sub(r"^--backbone\.name(?==|$)", "--network", arg) for arg in args[1:]]
    known = parse(ImportOptions(), rest, f"unshaken import {name}")
    methods = list(dict.fromkeys([*RECIPES, *PRESETS, "imported"]))
    if known.method not in (None, *methods):
        near = closest(known.method, methods)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(methods)}"
        raise ValueError(f"there is no method {known.method!r}; {hint}")
    timm = name.startswith("timm/") and not Path(name).exists()
    written = import_timm(name, known) if timm else import_file(Path(name), known)
    print("\n".join(said(written)))


def said(written: Written) -> list[str]:
    """Lines that say what was recognised, assumed and dropped, and what to do next."""
    width = max(map(len, written.said))
    lines = [f"{what:<{width}}  {text}" for what, text in written.said.items()]
    where = written.encoder.parent if written.encoder.name == "encoder.safetensors" else written.encoder
    data = " --data NAME" if written.data == UNKNOWN else ""
    lines += [str(written.encoder), f"next: unshaken finetune {where}{data}"]
    return lines if written.classifier is None else [*lines, f"  or: unshaken evaluate {written.classifier}"]


def layouts() -> str:
    width = max(map(len, LAYOUTS))
    rows = "\n".join(f"  {layout.name:<{width}}  {layout.what}" for layout in LAYOUTS.values())
    return (
        "usage: unshaken import FILE [OPTIONS]\n\n"
        "FILE: a checkpoint that torch.save wrote, or a safetensors file. Nothing in it is run. The import searches\n"
        "for the key and prefix under which all weights of a known network are, and takes all of them or none.\n"
        "If several networks fit, --key, --prefix and --drop say which is meant. For weights of another network of\n"
        "timm add --network timm/NAME. For weights that the package timm has, write timm/NAME instead of FILE.\n\n"
        f"Layouts; the first that fits is taken, unless --layout names another:\n{rows}\n\n"
        "Options: unshaken import FILE --help"
    )


@dataclass(frozen=True)
@ranged
class VerifyOptions:
    """Check that networks answer as their fingerprints say, and that images get the verdicts of a result again.

    The exit code is 2 if one does not, or has no fingerprint.
    """

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Encoder or classifier files, folders of runs, or results (NAME.json)."""
    write: bool = False
    """Write a fingerprint into files that have none, and checksums into files of an earlier version and the other files
    of their runs."""
    sample: Count = 100
    """For a result: the least number of images to attack again, in whole blocks drawn at random."""
    seed: Whole | None = None
    """For a result: seed of that draw; by default a new one each time."""
    run: Path | None = None
    """For a result outside its classifier's run: that run."""
    data: str | None = None
    """For a result: the data set, if it is not the one of the fine-tuning."""
    runtime: Runtime = Runtime()
    """For a result: device and precision."""


def verify(args: list[str]) -> None:
    options = parse(VerifyOptions(), args, "unshaken verify")
    if not options.files:
        raise ValueError("`unshaken verify` needs one or more files or runs")
    if options.write:
        for path in options.files:
            with_checksums(path)
    words = (
        _reattack(path, options) if path.suffix == ".json" else _verify(path, options.write) for path in options.files
    )
    wrong = [word for word in words if word]
    if wrong:
        raise ValueError("; ".join(wrong))


RUN_FILES = ("*.safetensors", "recipe.json", "run.json", "result*.json", "history.json", "verdicts*.jsonl", "log.jsonl")
"""Patterns of the files of a run that have checksums."""


def with_checksums(path: Path) -> None:
    """Add checksums to a file, or to the files in a run's folder, that an earlier version wrote without them."""
    kinds = {".json": add_checksum, ".jsonl": add_checksums_to_lines, ".safetensors": saved.add_checksum}
    found = sorted({file for name in RUN_FILES for file in path.glob(name)}) if path.is_dir() else [path]
    for file in found:
        if file.suffix in kinds:
            before = file.stat().st_mtime_ns
            kinds[file.suffix](file)
            if file.stat().st_mtime_ns != before:
                print(f"{file}: it had no checksum, and has one now")


def _verify(path: Path, write: bool) -> str | None:
    proof = verify_fingerprint(path)
    if proof is None and write:
        print(f"{path}: it had no fingerprint; now it has that of weights {write_fingerprint(path)['weights']}")
        return None
    if proof is None:
        return f"{path} has no fingerprint, so nothing was compared; --write takes one"
    print("\n".join([f"{path}: {'agrees' if proof.holds else 'DIFFERS'}", *(f"  {line}" for line in proof.lines())]))
    return None if proof.holds else f"{path} does not answer as its fingerprint says: take another copy"


def _reattack(path: Path, options: VerifyOptions) -> str | None:
    found = recheck(path, options.sample, options.seed, options.run, options.data, options.runtime)
    print("\n".join([f"{path}: {'agrees' if found.holds else 'DIFFERS'}", *(f"  {line}" for line in found.lines())]))
    return None if found.holds else f"{path} says other verdicts than its images get"


def export_(args: list[str]) -> None:
    name, _ = subject(args, "export", "RUN", "a run's folder, or an encoder or classifier file", ExportOptions())
    how = parse(ExportOptions(), args[1:], f"unshaken export {name}")
    out = export(Path(name), how, results_of(Path(name)))
    print(f"{out}\n{page_of(out)}  says what it is and how to load it")
    if how.repo:
        print(f"https://huggingface.co/{how.repo}  has it now; it is private if it was made just now")


def results_of(path: Path) -> list[dict[str, Any]]:
    """Every result at or below a run."""
    return [read_result(file) for file in sorted(path.rglob("result*.json"))] if path.is_dir() else []
