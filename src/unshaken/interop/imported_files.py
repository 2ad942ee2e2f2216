"""Files of an import: an encoder, and a finished fine-tuning run if there is a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unshaken.base.json_files import write_json
from unshaken.base.python_words import in_python
from unshaken.base.serialize import to_json
from unshaken.interop.class_names import CLASSES, names_of
from unshaken.interop.encoder_words import locate
from unshaken.interop.fingerprint import fingerprint
from unshaken.interop.import_checkpoint import import_checkpoint
from unshaken.interop.import_options import ImportedModel, ImportOptions, recipe_of
from unshaken.interop.load import LoadedModel
from unshaken.interop.named_import import import_timm_network, import_torchvision_network
from unshaken.layouts.foreign import read
from unshaken.nets.checkpoint import digest, read_tensors, save_classifier, save_encoder
from unshaken.nets.dual_bn import single_route
from unshaken.nets.network import Network


@dataclass(frozen=True)
class ImportedFiles:
    """The encoder's file, the classifier's folder if there is one, a report for the user, and the data set's name."""

    encoder: Path
    classifier: Path | None
    report: dict[str, str]
    data: str | None = None


@in_python
def import_file(path: Path | str, options: ImportOptions = ImportOptions()) -> ImportedFiles:
    """Import somebody else's checkpoint. ValueError, in one line, if it cannot be imported.

    path  a file; a folder of transformers or open_clip; or hf/OWNER/NAME or open_clip/OWNER/NAME of the Hub
    """
    found = locate(str(path))
    name = found.file.name.split(".")[0] if Path(path).is_file() else found.name.strip("/.").replace("/", "-")
    what = import_checkpoint(read(found.file), options, found.facts)
    return write_import(what, options.out or Path("runs") / name, options)


def import_timm(name: str, options: ImportOptions = ImportOptions()) -> ImportedFiles:
    """Import the network timm/NAME with the weights that timm has for it, which are downloaded if they are missing."""
    out = options.out or Path("runs") / name.replace("/", "-")
    return write_import(import_timm_network(name, options), out, options)


def import_torchvision(name: str, options: ImportOptions = ImportOptions()) -> ImportedFiles:
    """Import the network torchvision/NAME with its default weights, which are downloaded if they are missing."""
    out = options.out or Path("runs") / name.replace("/", "-")
    return write_import(import_torchvision_network(name, options), out, options)


def write_import(model: ImportedModel, out: Path, options: ImportOptions = ImportOptions()) -> ImportedFiles:
    """Write the encoder with its fingerprint; for a classifier also a fine-tuning run, for `unshaken evaluate`.

    out  a folder, or the encoder's file (.safetensors)

    Repeating an import writes the same files, even if the first was stopped halfway.
    """
    file = out if out.suffix == ".safetensors" else out / "encoder.safetensors"
    names = None
    if model.head is not None and options.classifier:
        names = names_of(options.classes, model.head.out_features)
    encoder_print = fingerprint(LoadedModel(model.encoder, model.backbone, {}))
    _check_overwrite(file, model, encoder_print["weights"])
    save_encoder(file, model.encoder, model.backbone, model.metadata | {"fingerprint": encoder_print})
    report = model.report | {"digest": encoder_print["weights"]}
    data_name = model.metadata["pretrain"]["recipe"]["data"]["name"]
    if names is None:
        return ImportedFiles(file, None, report, data_name)
    # the name of a set, as in --classes cifar10, names its data too; a file of class names does not
    named = options.classes if options.classes in CLASSES else None
    classifier_data = options.classifier_data or named or data_name
    # OUT/alf-cifar10 in a folder, and x-alf-cifar10 beside x.safetensors
    run_name = f"{options.mode or 'imported'}-{Path(classifier_data).stem}"
    run = file.parent / (f"{out.stem}-{run_name}" if file == out else run_name)
    _write_classifier(run, model, names, options.mode or "imported", classifier_data)
    note = "named as given" if options.classes else "unnamed: name them, such as with --classes cifar10"
    return ImportedFiles(file, run, report | {"classifier": f"{report['classifier']}, {note}"}, data_name)


def _write_classifier(run: Path, model: ImportedModel, names: tuple[str, ...], mode: str, classifier_data: str) -> None:
    """Write a classifier as a finished fine-tuning run, on the adversarial route, as the papers evaluate it."""
    net = Network(single_route(model.encoder, "adv"), model.head).eval()  # pyright: ignore[reportArgumentType]
    recipe = recipe_of(model.metadata["pretrain"]["recipe"]["name"], classifier_data, method={"type": mode})
    finetune = {"recipe": recipe, "data": {"encoder": digest(model.encoder)}}
    metadata = {"finetune": finetune, "pretrain": model.metadata["pretrain"]}
    metadata["fingerprint"] = fingerprint(LoadedModel(net, model.backbone, {}))
    save_classifier(run / "classifier.safetensors", net, model.backbone, names, metadata)
    write_json(run / "recipe.json", {"recipe": to_json(recipe), "data": finetune["data"]})
    write_json(run / "run.json", {"digest": digest(net), "seconds": None, "world": {}})  # it was trained elsewhere


def _check_overwrite(file: Path, model: ImportedModel, weights: str) -> None:
    """Overwrite only an import of the same network from the same file: results of another may lie beside it."""
    if not file.exists():
        return
    before = read_tensors(file)[1]
    if before.get("pretrain", {}).get("file") != model.metadata["pretrain"]["file"]:
        raise ValueError(f"{file} exists already, and was imported from another file; choose another --out")
    same = before.get("fingerprint", {}).get("weights") == weights and before.get("backbone") == to_json(model.backbone)
    if not same:
        raise ValueError(
            f"{file} exists already, and was imported from the same file with other options; choose another --out"
        )
