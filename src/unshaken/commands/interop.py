"""`unshaken import`, `verify`, `export`: import of others' checkpoints, checks of files, export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import tyro

from unshaken.base.json_files import add_checksum, add_checksums_to_lines
from unshaken.base.ranges import Count, Whole, ranged
from unshaken.base.suggest import closest
from unshaken.compute.runtime import Runtime
from unshaken.interop.export import ExportOptions, export, page_of
from unshaken.interop.fingerprint import verify_fingerprint, write_fingerprint
from unshaken.interop.import_options import UNKNOWN, ImportOptions
from unshaken.interop.imported_files import ImportedFiles, import_file, import_timm, import_torchvision
from unshaken.layouts.encoder_layouts import ENCODER_LAYOUTS
from unshaken.layouts.mobile_names import TRANSLATIONS
from unshaken.layouts.published import LAYOUTS
from unshaken.nets import checkpoint as saved
from unshaken.nets.locate import locate
from unshaken.options import parse, subject, take_option
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.finetune_presets import PRESETS
from unshaken.runs.load import results_in_run
from unshaken.runs.verify import recheck


def import_(args: list[str]) -> None:
    if args and args[0] in ("-h", "--help"):
        print(layouts())
        raise SystemExit(0)
    name, _ = subject(args, "import", "FILE", "a checkpoint of somebody else's; `unshaken import --help` lists layouts")
    rest = [re.sub(r"^--backbone\.name(?==|$)", "--network", arg) for arg in args[1:]]  # as pretrain calls it
    options = parse(ImportOptions(), rest, f"unshaken import {name}")
    methods = list(dict.fromkeys([*RECIPES, *PRESETS, "imported"]))
    if options.method not in (None, *methods):
        near = closest(options.method, methods)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(methods)}"
        raise ValueError(f"there is no method {options.method!r}; {hint}")
    named = {"timm": import_timm, "torchvision": import_torchvision}.get(name.partition("/")[0])
    written = (import_file if named is None or Path(name).exists() else named)(name, options)
    print("\n".join(report_lines(written)))


def report_lines(written: ImportedFiles) -> list[str]:
    """Return the report of an import: what was recognised, assumed and dropped, and the next command."""
    width = max(map(len, written.report))
    lines = [f"{name:<{width}}  {text}" for name, text in written.report.items()]
    where = written.encoder.parent if written.encoder.name == "encoder.safetensors" else written.encoder
    data = " --data NAME" if written.data == UNKNOWN else ""
    lines += [str(written.encoder), f"next: unshaken finetune {where}{data}"]
    return lines if written.classifier is None else [*lines, f"  or: unshaken evaluate {written.classifier}"]


def layouts() -> str:
    width = max(map(len, (*LAYOUTS, *ENCODER_LAYOUTS)))
    small = "\n".join(f"  {name:<{width}}  {family.what}" for name, family in TRANSLATIONS.items())
    rows, encoders = (
        "\n".join(f"  {layout.name:<{width}}  {layout.what}" for layout in each.values())
        for each in (LAYOUTS, ENCODER_LAYOUTS)
    )
    return (
        "usage: unshaken import FILE [OPTIONS]\n\n"
        "FILE is a checkpoint that torch.save wrote, or a safetensors file. No code in it is run. The file is\n"
        "searched for a network: an entry and a prefix under which all its weights are found. If one weight is\n"
        "missing, nothing is imported. If several networks are found, choose one by --key, --prefix and --drop.\n"
        "For weights of a network of timm other than a ResNet, add --network timm/NAME. To import a network with\n"
        "the weights that the package timm has for it, write timm/NAME instead of FILE. A folder that transformers or\n"
        "open_clip wrote can be named too, or one on the Hugging Face Hub: hf/OWNER/NAME, open_clip/OWNER/NAME.\n\n"
        f"Layouts of files; the first one that matches is used, unless --layout names another:\n{rows}\n\n"
        f"Layouts of encoders; if the names of several fit, --layout says which one it is:\n{encoders}\n\n"
        f"Recognised by their names alone:\n{small}\n\n"
        "Options: unshaken import FILE --help"
    )


@dataclass(frozen=True)
@ranged
class VerifyOptions:
    """Check files: compare networks with their fingerprints, and attack images of a result again to compare verdicts.
    The exit code is 2 if a file differs or has no fingerprint.

    A result of an attack of your own needs its code: --attack mine.py:attack, as in `unshaken evaluate`."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Files of encoders or classifiers, folders of runs, or results (NAME.json)."""
    write: bool = False
    """Write a fingerprint into files that have none, and checksums into files of runs from an earlier version."""
    sample: Count = 100
    """For a result: attack at least this many random images again, in entire blocks."""
    seed: Whole | None = None
    """For a result: seed of the random images. By default it differs each time."""
    run: Path | None = None
    """For a result: the run of its classifier, if the result lies in another folder."""
    data: str | None = None
    """For a result: the image set, if it is not the one that the run was fine-tuned on."""
    runtime: Runtime = Runtime()
    """For a result: the device and precision."""


def verify(args: list[str]) -> None:
    attack, args = take_option(args, "--attack")  # its code runs if it is typed, not if a file says it
    options = parse(VerifyOptions(), args, "unshaken verify")
    if not options.files:
        raise ValueError("`unshaken verify` needs one or more files or runs")
    if options.write:
        for path in options.files:
            with_checksums(path)
    words = (
        _reattack(path, options, attack) if path.suffix == ".json" else _verify(path, options.write)
        for path in options.files
    )
    wrong = [word for word in words if word]
    if wrong:
        raise ValueError("; ".join(wrong))


RUN_FILES = ("*.safetensors", "recipe.json", "run.json", "result*.json", "history.json", "verdicts*.jsonl", "log.jsonl")
"""Files of a run that have checksums."""


def with_checksums(path: Path) -> None:
    """Add checksums to files of an earlier version, which had none: to one file, or to the files of a run."""
    kinds = {".json": add_checksum, ".jsonl": add_checksums_to_lines, ".safetensors": saved.add_checksum}
    found = sorted({file for name in RUN_FILES for file in path.glob(name)}) if path.is_dir() else [path]
    for file in found:
        if file.suffix in kinds:
            before = file.stat().st_mtime_ns
            kinds[file.suffix](file)
            if file.stat().st_mtime_ns != before:
                print(f"{file}: a checksum was added")


def _verify(path: Path, write: bool) -> str | None:
    comparison = verify_fingerprint(path)
    if comparison is None and write:
        print(f"{path}: a fingerprint was added, for weights with digest {write_fingerprint(path)['weights']}")
        return None
    if comparison is None:
        return f"{path} has no fingerprint, so nothing was compared; --write adds one"
    print(
        "\n".join(
            [f"{path}: {'agrees' if comparison.holds else 'DIFFERS'}", *(f"  {line}" for line in comparison.lines())]
        )
    )
    return None if comparison.holds else f"the outputs of {path} differ from its fingerprint: take another copy"


def _reattack(path: Path, options: VerifyOptions, attack: str | None) -> str | None:
    found = recheck(path, options.sample, options.seed, options.run, options.data, options.runtime, attack=attack)
    print("\n".join([f"{path}: {'agrees' if found.holds else 'DIFFERS'}", *(f"  {line}" for line in found.lines())]))
    return None if found.holds else f"the verdicts in {path} differ from those of attacking its images again"


def export_(args: list[str]) -> None:
    name, _ = subject(args, "export", "RUN", "a run's folder, or an encoder or classifier file", ExportOptions())
    how = parse(ExportOptions(), args[1:], f"unshaken export {name}")
    path = locate(name)
    out = export(path, how, results_in_run(path))
    print(f"{out}\n{page_of(out)}  model card: what it is and how to load it")
    if how.repo:
        print(f"https://huggingface.co/{how.repo}  uploaded; a new repository is private")
