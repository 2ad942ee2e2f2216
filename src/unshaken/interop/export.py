"""Export of encoders and classifiers: safetensors, timm, torchvision, ONNX, hub folder."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unshaken.base.json_files import read_foreign_json, write_bytes, write_json, write_text
from unshaken.base.python_words import in_python
from unshaken.base.ranges import Unit, ranged
from unshaken.base.safe_text import printable, without_paths
from unshaken.base.serialize import to_json
from unshaken.base.tensor_file import seal, sealed
from unshaken.interop.dial import between, ends
from unshaken.interop.encoder_words import locate
from unshaken.interop.fingerprint import fingerprint, images
from unshaken.interop.load import LoadedModel, file_in, load_model
from unshaken.interop.model_card import card, front_matter, side_of
from unshaken.interop.usage_snippets import CODE, SHARED_RESNETS
from unshaken.layouts.original_file import note, write_original
from unshaken.nets.checkpoint import FORMAT, digest, save_classifier, save_encoder
from unshaken.nets.network import Network


@dataclass(frozen=True)
@ranged
class ExportOptions:
    """Write an encoder or classifier in a form that other libraries read."""

    to: Literal["safetensors", "timm", "torchvision", "onnx", "hub", "original"] = "safetensors"
    """Form of the export: a file for unshaken (safetensors), timm, torchvision or ONNX, a folder for the Hugging Face
    Hub, or the form of the file from which an encoder was imported (original)."""
    out: Path | None = None
    """File to write; for --to hub a folder. A model card is written beside the file. By default the name is that of the
    run, with the form added."""
    route: str | None = None
    """Batch-norm route of the exported network, such as clean or adv. By default adv, if the network has it."""
    license: str = "unknown"
    """Licence of the weights, for the model card of --to hub."""
    repo: str | None = None
    """OWNER/NAME of a repository on the Hugging Face Hub to which --to hub uploads the folder. A new repository is
    private."""
    original: str | None = None
    """File from which the encoder was imported. For --to original its names, order and dtypes are kept; for --dial it
    is what lies at 0."""
    dial: Unit | None = None
    """Write weights between the original (0) and the robust encoder (1), which need --original; or, without it, between
    the clean route (0) and the adversarial one (1). `unshaken dial` shows what each costs."""

    def __post_init__(self) -> None:
        if self.repo is not None and (self.to != "hub" or self.repo.count("/") != 1):
            raise ValueError(f"--repo needs OWNER/NAME and --to hub, not {self.repo!r} and --to {self.to}")
        if self.to == "original" and self.original is None:
            raise ValueError("--to original needs --original FILE, the file that the encoder was imported from")
        if self.original is not None and self.to != "original" and self.dial is None:
            raise ValueError("--original is for --to original or --dial: leave it out")


@in_python
def export(path: Path, how: ExportOptions, results: list[dict[str, Any]] = ()) -> Path:  # pyright: ignore[reportArgumentType]
    """Export the network of a run or a file, with a model card. Returns the file, or the folder for a hub.

    results  the contents of result files of this network, for the model card

    To repeat an export writes the same files, also if the first was stopped halfway. No file that is written holds a
    path of this machine.
    """
    model = load_model(path)
    subject, route = model.with_one_route(how.route) if how.dial is None else (_dialled(model, how), None)
    added = {"fingerprint": fingerprint(subject), "exported": {"from": digest(model.net), "route": route}}
    cleaned = {key: value if key in PATHLESS else without_paths(value) for key, value in model.metadata.items()}
    subject = replace(subject, backbone=subject.backbone.elsewhere, metadata=cleaned | added)
    out = _output_path(path, how, subject)
    if how.to == "hub":
        to_hub(subject, out, route, results, how.license)
        if how.repo:
            upload(out, how.repo)
        return out
    if how.to == "original":
        note(write_original(subject.encoder, subject.metadata, locate(str(how.original)).file, out))
    else:
        WRITERS[how.to](subject, out)
    page = card(subject, how.to, out.name, route, list(results), CODE[how.to](subject, out.name))
    write_text(page_of(out), f"{_page_marker(subject, out.name)}\n\n{page}")
    return out


def _dialled(model: LoadedModel, how: ExportOptions) -> LoadedModel:
    """Return the encoder at --dial."""
    if how.route is not None:
        raise ValueError("--dial lies between two routes, so that --route has no meaning with it: leave it out")
    net = between(*ends(model, how.original), how.dial)  # pyright: ignore[reportArgumentType]
    return LoadedModel(net, model.backbone, model.metadata | {"dial": how.dial})


PATHLESS = ("fingerprint", "names", "backbone", "routes", "kind")
"""Entries of a header that hold no path, but may hold text that looks like one."""


def page_of(out: Path) -> Path:
    """Return the file of the model card. The export's suffix stays in its name, so that two forms have two cards."""
    return out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.md")


def _page_marker(subject: LoadedModel, file: str) -> str:
    """Return the first line of a model card, which says to which weights and which file it belongs."""
    weights = subject.metadata["fingerprint"]["weights"]
    return f"<!-- unshaken export, {blake2b(file.encode(), digest_size=4).hexdigest()}, weights {weights} -->"


def _output_path(path: Path, how: ExportOptions, subject: LoadedModel) -> Path:
    """Return where to write. Only an earlier export of the same weights is overwritten; ValueError otherwise."""
    suffix = SUFFIXES[how.to] if how.to != "original" else locate(str(how.original)).file.suffix
    out = how.out or Path(f"{path.resolve().name.removesuffix('.safetensors')}-{how.to}{suffix}")
    if how.to == "hub":
        if out.is_file() or (out.is_dir() and not _is_hub(out)):
            raise ValueError(f"--to hub needs a new folder, and {out} exists already; choose another --out")
    elif out.suffix != suffix:
        raise ValueError(f"--to {how.to} writes a file that ends in {suffix}, and --out {out} does not")
    elif out.resolve() == file_in(path).resolve():
        raise ValueError(f"{out} is the file to be exported; choose another --out")
    elif how.to == "original" and out.exists() and not page_of(out).exists():
        raise ValueError(f"{out} exists already; choose another --out")
    elif (out.exists() and how.to != "original" and not _is_export(out, subject)) or not _is_page(
        page_of(out), subject, out.name
    ):
        raise ValueError(f"{out} or its model card {page_of(out).name} exists already; choose another --out")
    return out


def _is_hub(folder: Path) -> bool:
    """Return whether a folder is an export for a hub, complete or not: config.json is written after the weights."""
    config, names = folder / "config.json", {file.name for file in folder.iterdir() if file.suffix != ".part"}
    if config.exists():
        return _is_ours(config)
    return not names or (
        names == {"model.safetensors"} and _header(folder / "model.safetensors").get("format") == FORMAT
    )


def _is_ours(config: Path) -> bool:
    try:
        return read_foreign_json(config, {"library_name": str})["library_name"] == "unshaken"
    except ValueError:
        return False


def _is_export(out: Path, subject: LoadedModel) -> bool:
    """Return whether a file is an export of the same weights, which may be overwritten."""
    weights = subject.metadata["fingerprint"]["weights"]
    if out.suffix == ".onnx":
        return f"unshaken {weights}".encode() in out.read_bytes()
    text = _header(out).get("about", "")
    return f'"weights": "{weights}"' in text or f'"digest": "{weights}"' in text


def _is_page(page: Path, subject: LoadedModel, file: str) -> bool:
    return not page.exists() or page.read_bytes().startswith(_page_marker(subject, file).encode())


def _header(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, "pt") as opened_file:
            return opened_file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def to_safetensors(subject: LoadedModel, out: Path) -> None:
    """Write an unshaken file with one route: the weights, the normalisation, and how to build the network."""
    if isinstance(subject.net, Network):
        save_classifier(out, subject.net, subject.backbone, tuple(subject.metadata["names"]), subject.metadata)
    else:
        save_encoder(out, subject.net, subject.backbone, subject.metadata)


def library_weights(subject: LoadedModel, library: str) -> dict[str, Tensor]:
    """Return the weights by torchvision's and timm's names. ValueError if the library has no such network."""
    name, variant = subject.backbone.name, subject.backbone.variant
    of_timm = name.startswith("timm/") or name == "vit-small"
    read = variant is not None and (not of_timm or subject.kind == "classifier")
    if read or (name not in SHARED_RESNETS and not (of_timm and library == "timm")):
        raise ValueError(f"{library} has no {name}: export it {'--to original, ' * read}--to safetensors or --to onnx")
    weights = subject.encoder.backbone.state_dict()
    if variant is not None and variant.pool == "projection":  # timm's projection has a bias
        weights["head.bias"] = torch.zeros(subject.encoder.features)
    if isinstance(subject.net, Network):
        head = subject.encoder.backbone.pretrained_cfg["classifier"] if of_timm else "fc"  # pyright: ignore[reportArgumentType, reportIndexIssue]
        weights |= {f"{head}.{part}": tensor for part, tensor in subject.net.head.state_dict().items()}
    return weights


def _to_library(library: str) -> Callable[[LoadedModel, Path], None]:
    def write(subject: LoadedModel, out: Path) -> None:
        """Write the weights, with the normalisation in the header.

        It could be folded into the first convolution, but not exactly at the border: the zeros that pad a normalised
        image are the mean colour, the zeros that pad pixels are black.
        """
        weights = {name: tensor.contiguous() for name, tensor in library_weights(subject, library).items()}
        content = {"backbone": to_json(subject.backbone), "digest": subject.metadata["fingerprint"]["weights"]}
        content |= {"names": subject.metadata["names"]} if subject.kind == "classifier" else {}
        metadata = {
            "format": "pt",
            "mean": json.dumps(subject.backbone.mean),
            "std": json.dumps(subject.backbone.std),
            "about": json.dumps(content),
        }
        write_bytes(out, *seal(save(weights, sealed(metadata))))

    return write


def to_onnx(subject: LoadedModel, out: Path) -> None:
    """Write an ONNX file: pixels in [0, 1] to features or logits, for batches of any size."""
    lacking = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise ValueError(f"--to onnx needs {' and '.join(lacking)}: pip install 'unshaken[onnx]'")
    net = subject.net
    module = nn.Sequential(net.encoder, net.head) if isinstance(net, Network) else net
    pixels = images(subject.backbone.channels, side_of(subject))
    name = "logits" if subject.kind == "classifier" else "features"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            module.eval(),
            (pixels,),
            input_names=["pixels"],
            output_names=[name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    stored = io.BytesIO()
    program.save(stored)  # pyright: ignore[reportArgumentType]
    write_bytes(out, _without_traces(stored.getvalue(), subject.metadata["fingerprint"]["weights"]))


def _without_traces(model: bytes, weights: str) -> bytes:
    """Remove the source lines that the exporter writes at each node: they hold paths of this machine."""
    import onnx

    proto = onnx.load_from_string(model)
    graphs = [proto.graph, *proto.functions]
    for element in [proto, *graphs, *(node for graph in graphs for node in graph.node)]:
        element.doc_string = ""
        del element.metadata_props[:]
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    proto.metadata_props.add(key="weights", value=f"unshaken {weights}")
    return proto.SerializeToString()


def to_hub(subject: LoadedModel, out: Path, route: str | None, results: list[dict[str, Any]], license: str) -> None:
    """Write a folder for a hub: model.safetensors, config.json, README.md."""
    file = out / "model.safetensors"
    to_safetensors(subject, file)
    backbone = {key: value for key, value in to_json(subject.backbone).items() if key != "type"}
    config = {"library_name": "unshaken", "format": FORMAT, "kind": subject.kind, "backbone": backbone, "route": route}
    config |= {"names": subject.metadata["names"]} if subject.kind == "classifier" else {}
    write_json(out / "config.json", config | {"weights": subject.metadata["fingerprint"]["weights"]})
    page = card(subject, "hub", file.name, route, list(results), CODE["hub"](subject, file.name))
    write_text(out / "README.md", front_matter(subject, license, list(results)) + page)


def upload(folder: Path, repo: str) -> None:
    """Upload a folder to the Hugging Face Hub with the user's login there; a new repository is private."""
    if find_spec("huggingface_hub") is None:
        raise ValueError("--repo needs huggingface_hub: pip install 'unshaken[hub]'")
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=str(folder), ignore_patterns=["*.part"])
    except Exception as error:  # the type of a network error depends on the version of huggingface_hub
        reason = printable((str(error).splitlines() or [type(error).__name__])[0])
        raise ValueError(f"{folder} is complete, but it could not be uploaded to {repo}: {reason}") from None


SUFFIXES = dict.fromkeys(("safetensors", "timm", "torchvision"), ".safetensors") | {"onnx": ".onnx", "hub": ""}
WRITERS: dict[str, Callable[[LoadedModel, Path], None]] = {
    "safetensors": to_safetensors,
    "timm": _to_library("timm"),
    "torchvision": _to_library("torchvision"),
    "onnx": to_onnx,
}
