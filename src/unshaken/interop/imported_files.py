"""What was imported, as files of ours: an encoder, and a finished run of fine-tuning if there is a classifier."""

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
class Written:
    """Where things are: the encoder, and the folder of the classifier if there was one; and what was said."""

    encoder: Path
    classifier: Path | None
    said: dict[str, str]
    data: str | None = None


def import_file(path: Path, known: ImportOptions = ImportOptions()) -> Written:
    """Read a checkpoint of somebody else's and write ours. ValueError, in one sentence, for all that goes wrong."""
    return write(import_checkpoint(read(path), known), known.out or Path("runs") / path.name.split(".")[0], known)


def import_timm(name: str, known: ImportOptions = ImportOptions()) -> Written:
    """timm/NAME: a network of timm's with the weights that timm has for it, downloaded if they are not there."""
    return write(import_timm_network(name, known), known.out or Path("runs") / name.replace("/", "-"), known)


def write(what: ImportedModel, out: Path, known: ImportOptions = ImportOptions()) -> Written:
    """The encoder with its fingerprint, and a run of fine-tuning for `unshaken evaluate` if there is a classifier.

    The same import again, after a stop at any moment, writes the same files.
    """
    file = out if out.suffix == ".safetensors" else out / "encoder.safetensors"
    names = None
    if what.head is not None and known.classifier:
        names = names_of(known.classes, what.head.out_features)
    taken = fingerprint(LoadedModel(what.encoder, what.backbone, {}))
    _spare(file, what, taken["weights"])
    save_encoder(file, what.encoder, what.backbone, what.about | {"fingerprint": taken})
    said = what.said | {"digest": taken["weights"]}
    data = what.about["pretrain"]["recipe"]["data"]["name"]
    if names is None:
        return Written(file, None, said, data)
    named = known.classes if known.classes in CLASSES else None
    tuned = known.tuned or named or data
    run = file.parent / "-".join((*((out.stem,) if file == out else ()), known.mode or "imported", Path(tuned).stem))
    _write_classifier(run, what, names, known.mode or "imported", tuned)
    names = "named as given" if known.classes else "without names: --classes cifar10, say, if they are true classes"
    return Written(file, run, said | {"classifier": f"{said['classifier']}, {names}"}, data)


def _write_classifier(run: Path, what: ImportedModel, names: tuple[str, ...], mode: str, tuned: str) -> None:
    """As a finished run of fine-tuning: the adversarial route alone, as the papers judge it."""
    net = Network(single_route(what.encoder, "adv"), what.head).eval()  # pyright: ignore[reportArgumentType]
    recipe = recipe_of(what.about["pretrain"]["recipe"]["name"], tuned, method={"type": mode})
    finetune = {"recipe": recipe, "data": {"encoder": digest(what.encoder)}}
    about = {"finetune": finetune, "pretrain": what.about["pretrain"]}
    about["fingerprint"] = fingerprint(LoadedModel(net, what.backbone, {}))
    save_classifier(run / "classifier.safetensors", net, what.backbone, names, about)
    write_json(run / "recipe.json", {"recipe": to_json(recipe), "data": finetune["data"]})
    write_json(run / "run.json", {"digest": digest(net), "seconds": None, "world": {}})


def _spare(file: Path, what: ImportedModel, weights: str) -> None:
    """What is there already is kept, unless it is the same network from the same file: results may lie beside it."""
    if not file.exists():
        return
    before = read_tensors(file)[1]
    if before.get("pretrain", {}).get("file") != what.about["pretrain"]["file"]:
        raise ValueError(f"{file} is there already, and comes from elsewhere; choose another --out")
    same = before.get("fingerprint", {}).get("weights") == weights and before.get("backbone") == to_json(what.backbone)
    if not same:
        raise ValueError(f"{file} is there already, and the same file was read otherwise then; choose another --out")
