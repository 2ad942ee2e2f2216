"""Every kind of file that is read here: one sound file of it, who reads it, and what that reader then knows."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import nn

from unshaken.attacks.ball import Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.json_files import read_json, write_bytes, write_json
from unshaken.base.rng import Key
from unshaken.base.serialize import to_json
from unshaken.base.tensor_file import seal, sealed
from unshaken.board.reported import published, reported_rows
from unshaken.data.cifar import RELEASES, cifar
from unshaken.data.corrupted import corrupted
from unshaken.data.imagenet import _batch, _opened
from unshaken.data.images import Images
from unshaken.data.source import DataSource
from unshaken.evaluation.classifier import Classifier
from unshaken.evaluation.verdict_log import VerdictLog
from unshaken.interop.export import ExportOptions, export
from unshaken.interop.fingerprint import verify_fingerprint, write_fingerprint
from unshaken.interop.load import load_model
from unshaken.layouts.foreign import read
from unshaken.nets.backbone import Backbone
from unshaken.nets.checkpoint import (
    digest,
    load_classifier,
    load_encoder,
    save_classifier,
    save_encoder,
    write_tensors,
)
from unshaken.nets.heads import zero_classifier
from unshaken.nets.network import Network, seeded
from unshaken.report.grouping import results_in
from unshaken.runs.autolora import History
from unshaken.runs.pack import pack
from unshaken.storage import cache
from unshaken.storage.archive import Archive
from unshaken.storage.download import checksum
from unshaken.storage.memmap import Shard, mapped
from unshaken.train.attack_cache import AttackCache
from unshaken.train.batches import Position
from unshaken.train.coreset_training import read_selection
from unshaken.train.run_dir import Run
from unshaken.train.training_images import TrainingImages

GREY = Backbone("resnet-small", 8, 1, (0.5,), (0.25,))
FORMS = ("png", "jpg", "webp", "gif", "tiff")
RESULTS = Path(__file__).parents[2] / "results"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    make    writes a sound file, and whatever belongs beside it, into a folder
    read    what a reader knows of it, such that equal files give equal values
    ours    whether we write such files, with a checksum
    form    "json", "lines", "tensors" or "" for anything else: which edits make sense
    heals   whether damage is mended by doing work again: then less may be known, and a line says so
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    ours: bool = True
    form: str = ""
    heals: bool = False


def encoder(seed: int = 0) -> nn.Module:
    return seeded(GREY.build, Key(seed)).eval()


def origin(**others: Any) -> dict[str, Any]:
    recipe = {"type": "Pretrain", "name": "simclr", "data": to_json(DataSource("digits")), "seed": 1}
    return {"pretrain": {"recipe": recipe, "data": {}}} | others


def make_encoder(folder: Path) -> Path:
    save_encoder(folder / "encoder.safetensors", encoder(), GREY, origin())
    write_fingerprint(folder / "encoder.safetensors")
    return folder / "encoder.safetensors"


def make_classifier(folder: Path) -> Path:
    net = Network(encoder(), zero_classifier(64, 10)).eval()
    tuned = {
        "recipe": {"type": "Finetune", "method": {"type": "SLF"}, "data": to_json(DataSource("digits")), "seed": 1}
    }
    names = DataSource("digits").load("test").names
    save_classifier(folder / "classifier.safetensors", net, GREY, names, origin(finetune=tuned))
    write_fingerprint(folder / "classifier.safetensors")
    write_json(folder / "run.json", {"digest": digest(net), "seconds": 1.0, "world": {}})
    return folder / "classifier.safetensors"


def weights(net: nn.Module) -> str:
    return digest(net)


def make_run(folder: Path) -> Run:
    run = Run(folder / "run", GREY, {"images": {"n": 3}})
    net = nn.Linear(2, 2)
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    run.restore(net, optimizer, torch.device("cpu"))
    for step in range(4):
        run.log({"step": step, "loss": step / 3, "epoch": step / 4})
    run.save(Position(1, 0, 5), net, optimizer, torch.device("cpu"))
    run.close()
    return run


def restored(folder: Path) -> Any:
    """What a run goes on from."""
    net = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with Run(folder, GREY, {"images": {"n": 3}}) as run:
        place = run.restore(net, optimizer, torch.device("cpu"))
        lines = run._log.values
        return place, digest(net), run.spent, lines


def make_finished(folder: Path) -> Path:
    run = make_run(folder)
    make_encoder(run.path)
    run.finish(encoder(), {"torch": "x"})
    return run.path / "run.json"


def finished(folder: Path) -> Any:
    with Run(folder, GREY, {"images": {"n": 3}}) as run:
        if not run.finished("encoder.safetensors"):
            raise ValueError(f"{folder} has not finished")
    return read_json(folder / "run.json")


def make_result(folder: Path) -> Path:
    source = sorted((RESULTS / "digits").glob("*.json"))[0]
    (folder / "result.json").write_bytes(source.read_bytes())
    return folder / "result.json"


def make_notes(folder: Path) -> Path:
    notes = VerdictLog(folder, "evaluation", "weights")
    for part in ("clean", "pgd"):
        for block in range(3):
            notes.write(part, block, torch.arange(20) % (block + 2) == 0, 0.5)
    return notes.file


def noted(folder: Path) -> Any:
    notes = VerdictLog(folder, "evaluation", "weights")
    return {place: bits.tolist() for place, bits in notes.bits.items()}


def make_cache(folder: Path) -> Path:
    pixels = np.arange(240, dtype=np.uint8).reshape(5, 3, 4, 4)
    cache.cached(folder / "cache", "key", lambda: (pixels, {"label": [0, 1, 0, 1, 1], "names": ["a", "b"]}))
    return next((folder / "cache").glob("*.npy"))


class Again(Exception):
    """The images would be decoded again."""


def kept(folder: Path) -> Any:
    def again() -> cache.Decoded:
        raise Again

    try:
        pixels, about = cache.cached(folder, "key", again)
    except Again:
        return {}
    return {"pixels": pixels.tolist(), "about": about}


def make_mapped(folder: Path) -> Path:
    def decode(done: int, kept: int):
        for at in range(done, 6, 2):
            yield at + 2, Shard(np.full((2, 3, 4, 4), at, np.uint8), {}, np.array([at + 1, at + 2], np.uint64))

    mapped(folder / "cache", "key", 6, 6, (3, 4, 4), decode)
    return next((folder / "cache").glob("*.pixels"))


def mapped_again(folder: Path) -> Any:
    def decode(done: int, kept: int):
        raise Again

    try:
        pixels, known = mapped(folder, "key", 6, 6, (3, 4, 4), decode)
    except Again:
        return {}
    read = Images(pixels).floats().tolist()
    noted = {name: known[name] for name in ("done", "kept", "rows", "content", "unreadable", "deep")}
    return {"pixels": read, "digests": known["digests"].tolist()} | noted


def make_seen(folder: Path) -> Path:
    TrainingImages(np.arange(40), np.arange(60)).write(folder)
    return folder / "seen.safetensors"


def make_history(folder: Path) -> Path:
    write_json(folder / "history.json", {"validation": [0.1, 0.3, 0.2]})
    return folder / "history.json"


def make_selection(folder: Path) -> Path:
    about = {"kind": "coreset", "selector": "RCS", "seconds": 1.5, "epoch": 3}
    write_tensors(
        folder / "coreset-0003.safetensors", {"index": torch.tensor([4, 2, 7]), "held": torch.tensor([1])}, about
    )
    return folder / "coreset-0003.safetensors"


def make_attacks(folder: Path) -> Path:
    x = torch.linspace(0.2, 0.8, 2 * 3 * 16).view(2, 3, 1, 4, 4)
    AttackCache(folder / "attacks-0001.bits", 3).write(torch.arange(3), x, x + 0.01 * (x * 37).sin().sign())
    return folder / "attacks-0001.bits"


def attacked(file: Path) -> Any:
    x = torch.full((2, 3, 1, 4, 4), 0.5)
    return AttackCache(file, 3).read(PGD(Linf(0.1), steps=1), torch.arange(3), x).tolist()


def make_hub(folder: Path) -> Path:
    export(make_encoder(folder), ExportOptions("hub", folder / "hub"))
    return folder / "hub" / "config.json"


def make_published(folder: Path) -> Path:
    """Exported for other programs: it has a checksum that ours look at."""
    tensors = {"conv1.weight": torch.ones(4, 3, 3, 3), "fc.weight": torch.ones(2, 4)}
    write_bytes(folder / "theirs.safetensors", *seal(save(tensors, sealed({"format": "pt", "about": "{}"}))))
    return folder / "theirs.safetensors"


def foreign(file: Path) -> Any:
    found = read(file)
    return {f"{c.key}.{name}": value.tolist() for c in found.containers for name, value in c.tensors.items()}


def make_pt(folder: Path) -> Path:
    torch.save({"state_dict": nn.Linear(3, 2).state_dict(), "epoch": 3}, folder / "theirs.pt")
    return folder / "theirs.pt"


def make_old_pt(folder: Path) -> Path:
    torch.save(nn.Linear(3, 2).state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def make_safetensors(folder: Path) -> Path:
    save_file(nn.Linear(3, 2).state_dict(), folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


def make_image(form: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pixels = (np.arange(12 * 10 * 3) * 7 % 256).astype(np.uint8).reshape(12, 10, 3)
        (folder / "photos").mkdir()
        for name in "ab":
            (folder / "photos" / name).mkdir()
            for k in range(5):
                Image.fromarray(np.roll(pixels, (k, ord(name)), (0, 1)) ^ (40 * k)).save(
                    folder / "photos" / name / f"{k}.{form}"
                )
        return folder / "photos" / "a" / f"0.{form}"

    return make


def make_cifar(folder: Path) -> Path:
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    release = RELEASES[10]
    for name in (*release.train, *release.test):
        entry = {"data": np.arange(3072 * 2, dtype=np.uint8).reshape(2, 3072), "labels": [0, 1]}
        (place / name).write_bytes(pickle.dumps(entry, protocol=2))
    (place / release.meta).write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}, protocol=2))
    return place / "test_batch"


def cifar_read(file: Path) -> Any:
    images = cifar(10, file.parents[1], "test")
    return images.digest


def make_tar(folder: Path) -> Path:
    make_cifar(folder)
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(folder / "cifar-10-batches-py")
    return folder / "cifar-10-python.tar.gz"


def tar_read(file: Path) -> Any:
    archive = Archive("http://x/cifar-10-python.tar.gz", checksum(file), "cifar-10-batches-py")
    return [stream.read() for _, stream, _ in archive._packed(file, ["test_batch"])]


def make_corrupted(folder: Path) -> Path:
    np.save(folder / "fog.npy", np.arange(5 * 2 * 3072, dtype=np.uint8).reshape(10, 32, 32, 3))
    np.save(folder / "labels.npy", np.array([0, 1] * 5))
    return folder / "fog.npy"


def make_parquet(folder: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    files = [io.BytesIO() for _ in range(10)]
    for k, file in enumerate(files):
        Image.new("RGB", (8, 8), (k, 9, 9)).save(file, "PNG")
    table = pa.table({"image": [{"bytes": file.getvalue(), "path": None} for file in files], "label": [0, 1] * 5})
    notes = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"]}}}})
    (folder / "set").mkdir()
    parquet.write_table(table.replace_schema_metadata({"huggingface": notes}), folder / "set" / "train-0.parquet")
    return folder / "set" / "train-0.parquet"


def make_packed(folder: Path) -> Path:
    make_image("png")(folder)
    return pack(folder / "photos", folder / "photos.packed")


def packed_read(file: Path) -> Any:
    images = DataSource(str(file), size=8).load("all")
    return images.label.tolist(), images.digest, list(images.files), images.floats().sum().item()


def set_read(file: Path) -> Any:
    images = DataSource(str(file.parent if file.suffix == ".parquet" else file.parents[1]), str(file.parents[2])).load(
        "train"
    )
    return images.digest


def make_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "Imagenet32_val.zip", "w") as packed:
        entry = {"data": np.zeros((3, 3072), np.uint8), "labels": [1, 2, 3]}
        packed.writestr("val_data", pickle.dumps(entry, protocol=2))
    return folder / "Imagenet32_val.zip"


def zip_read(file: Path) -> Any:
    with _opened(file, "val_data") as (stream, called):
        pixels, label = _batch(stream, called, file)
        return pixels.tolist(), label


def make_numbers(folder: Path) -> Path:
    """Three of the package's own published numbers, with their sources and all corrections."""
    whole = published()
    numbers = whole["numbers"][:3]
    sources = {number["source"]: whole["sources"][number["source"]] for number in numbers}
    kept = {"sources": sources, "numbers": numbers, "corrections": whole["corrections"]}
    (folder / "numbers.json").write_text(json.dumps(kept))
    return folder / "numbers.json"


KINDS = (
    Kind("encoder", make_encoder, lambda file: weights(load_encoder(file)[0]), form="tensors"),
    Kind("encoder, opened", make_encoder, lambda file: load_model(file).metadata, form="tensors"),
    Kind("encoder, verified", make_encoder, lambda file: verify_fingerprint(file).digest, form="tensors"),
    Kind("encoder, stamped", make_encoder, lambda file: write_fingerprint(file), form="tensors"),
    Kind("classifier", make_classifier, lambda file: load_classifier(file)[1]["names"], form="tensors"),
    Kind(
        "classifier of a run", make_classifier, lambda file: Classifier.of_run(file.parent).provenance, form="tensors"
    ),
    Kind(
        "run.json of a classifier",
        lambda folder: make_classifier(folder).with_name("run.json"),
        lambda file: Classifier.of_run(file.parent).provenance,
        form="json",
    ),
    Kind(
        "checkpoint", lambda folder: make_run(folder).checkpoint, lambda file: restored(file.parent)[:3], form="tensors"
    ),
    Kind(
        "recipe.json",
        lambda folder: make_run(folder).path / "recipe.json",
        lambda file: restored(file.parent)[:3],
        form="json",
    ),
    Kind(
        "log.jsonl",
        lambda folder: make_run(folder).path / "log.jsonl",
        lambda file: {line["step"]: line for line in restored(file.parent)[3]},
        form="lines",
        heals=True,
    ),
    Kind("run.json", make_finished, lambda file: finished(file.parent), form="json"),
    Kind(
        "encoder of a finished run",
        lambda folder: make_finished(folder).with_name("encoder.safetensors"),
        lambda file: finished(file.parent),
        form="tensors",
    ),
    Kind("result.json", make_result, lambda file: results_in([file]), form="json"),
    Kind("verdicts.jsonl", make_notes, lambda file: noted(file.parent), form="lines", heals=True),
    Kind("cached pixels", make_cache, lambda file: kept(file.parent), heals=True),
    Kind(
        "cached labels",
        lambda folder: make_cache(folder).with_suffix(".json"),
        lambda file: kept(file.parent),
        form="json",
        heals=True,
    ),
    Kind("mapped pixels", make_mapped, lambda file: mapped_again(file.parent), heals=True),
    Kind(
        "mapped checksums",
        lambda folder: make_mapped(folder).with_suffix(".sums"),
        lambda file: mapped_again(file.parent),
    ),
    Kind(
        "mapped digests",
        lambda folder: make_mapped(folder).with_suffix(".digests"),
        lambda file: mapped_again(file.parent),
    ),
    Kind("packed images", make_packed, packed_read),
    Kind("seen", make_seen, lambda file: TrainingImages.beside(file).finetune.tolist(), form="tensors"),
    Kind(
        "mapped journal",
        lambda folder: make_mapped(folder).with_suffix(".journal"),
        lambda file: mapped_again(file.parent),
        form="json",
    ),
    Kind("history.json", make_history, lambda file: History(file.parent, Position(2, 0, 5)).values, form="json"),
    Kind("selection", make_selection, lambda file: read_selection(file, 8).tolist(), form="tensors"),
    Kind("attacks", make_attacks, attacked),
    Kind("config.json of a hub", make_hub, lambda file: read_json(file, {"library_name?": str}), form="json"),
    Kind("exported for others", make_published, foreign, form="tensors"),
    Kind("theirs, .pt", make_pt, foreign, ours=False),
    Kind("theirs, old .pth", make_old_pt, foreign, ours=False),
    Kind("theirs, safetensors", make_safetensors, foreign, ours=False, form="tensors"),
    *(
        Kind(f"theirs, {form}", make_image(form), set_read, ours=False)
        for form in ("png", "jpg", "webp", "gif", "tiff")
    ),
    Kind("theirs, CIFAR's pickle", make_cifar, cifar_read, ours=False),
    Kind("theirs, tar.gz", make_tar, tar_read, ours=False),
    Kind("theirs, npy", make_corrupted, lambda file: corrupted(file.parent, "fog", 2).digest, ours=False),
    Kind(
        "theirs, labels.npy",
        lambda folder: make_corrupted(folder).with_name("labels.npy"),
        lambda file: corrupted(file.parent, "fog", 2).digest,
        ours=False,
    ),
    Kind("theirs, Parquet", make_parquet, set_read, ours=False),
    Kind(
        "theirs, published numbers", make_numbers, lambda file: reported_rows(published(file)), ours=False, form="json"
    ),
    Kind("theirs, zip", make_zip, zip_read, ours=False),
)
