"""Files of an import: an encoder, and a finished fine-tuning run if there is a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unshaken.base.json_files import write_json
from unshaken.base.serialize import to_json
from unshaken.interop.class_names import CLASSES, names_of
from unshaken.interop.fingerprint import fingerprint
from unshaken.interop.foreign import read
from unshaken.interop.import_checkpoint import (
    ImportedModel,
    ImportOptions,
    import_checkpoint,
    import_timm_network,
    recipe_of,
)
from unshaken.interop.load import LoadedModel
from unshaken.nets.checkpoint import digest, read_tensors, save_classifier, save_encoder
from unshaken.nets.dual_bn import single_route
from unshaken.nets.network import Network


@dataclass(frozen=True)
class ImportedFiles:
    """The files of an import: the encoder, the folder of the classifier if there is one; and the report."""

    encoder: Path
    classifier: Path | None
    report: dict[str, str]
    data: str | None = None


def import_file(path: Path, options: ImportOptions = ImportOptions()) -> ImportedFiles:
    """Import somebody else's checkpoint file. ValueError, in one line, if it cannot be imported."""
    return write(import_checkpoint(read(path), options), options.out or Path("runs") / path.name.split(".")[0], options)


def import_timm(name: str, options: ImportOptions = ImportOptions()) -> ImportedFiles:
    """Import the network timm/NAME with the weights that timm has for it, which are downloaded if they are missing."""
    return write(import_timm_network(name, options), options.out or Path("runs") / name.replace("/", "-"), options)


def write(what: ImportedModel, out: Path, options: ImportOptions = ImportOptions()) -> ImportedFiles:
    """Write the encoder with its fingerprint; for a classifier also a fine-tuning run, for `unshaken evaluate`.

    To repeat an import writes the same files, also if the first was stopped halfway.
    """
    file = out if out.suffix == ".safetensors" else out / "encoder.safetensors"
    names = None
    if what.head is not None and options.classifier:
        names = names_of(options.classes, what.head.out_features)
    taken = fingerprint(LoadedModel(what.encoder, what.backbone, {}))
    _check_overwrite(file, what, taken["weights"])
    save_encoder(file, what.encoder, what.backbone, what.metadata | {"fingerprint": taken})
    report = what.report | {"digest": taken["weights"]}
    data = what.metadata["pretrain"]["recipe"]["data"]["name"]
    if names is None:
        return ImportedFiles(file, None, report, data)
    named = options.classes if options.classes in CLASSES else None
    classifier_data = options.classifier_data or named or data
    run = file.parent / "-".join(
        (*((out.stem,) if file == out else ()), options.mode or "imported", Path(classifier_data).stem)
    )
    _write_classifier(run, what, names, options.mode or "imported", classifier_data)
    names = "named as given" if options.classes else "without names: name them with --classes, such as cifar10"
    return ImportedFiles(file, run, report | {"classifier": f"{report['classifier']}, {names}"}, data)


def _write_classifier(run: Path, what: ImportedModel, names: tuple[str, ...], mode: str, classifier_data: str) -> None:
    """Write a classifier as a finished fine-tuning run, with the adversarial route, which the papers evaluate."""
    net = Network(single_route(what.encoder, "adv"), what.head).eval()  # pyright: ignore[reportArgumentType]
    recipe = recipe_of(what.metadata["pretrain"]["recipe"]["name"], classifier_data, method={"type": mode})
    finetune = {"recipe": recipe, "data": {"encoder": digest(what.encoder)}}
    metadata = {"finetune": finetune, "pretrain": what.metadata["pretrain"]}
    metadata["fingerprint"] = fingerprint(LoadedModel(net, what.backbone, {}))
    save_classifier(run / "classifier.safetensors", net, what.backbone, names, metadata)
    write_json(run / "recipe.json", {"recipe": to_json(recipe), "data": finetune["data"]})
    write_json(run / "run.json", {"digest": digest(net), "seconds": None, "world": {}})


def _check_overwrite(file: Path, what: ImportedModel, weights: str) -> None:
    """Refuse to overwrite any file but an import of the same network from the same file: results may lie beside it."""
    if not file.exists():
        return
    before = read_tensors(file)[1]
    if before.get("pretrain", {}).get("file") != what.metadata["pretrain"]["file"]:
        raise ValueError(f"{file} exists already, and comes from another file; choose another --out")
    same = before.get("fingerprint", {}).get("weights") == weights and before.get("backbone") == to_json(what.backbone)
    if not same:
        raise ValueError(
            f"{file} exists already, and was imported from the same file with other options; choose another --out"
        )
