"""Our encoders and classifiers for others: safetensors, timm, torchvision, ONNX, and a folder for a hub."""

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
from unshaken.base.safe_text import printable, without_paths
from unshaken.base.serialize import to_json
from unshaken.base.tensor_file import seal, sealed
from unshaken.interop.fingerprint import fingerprint, images
from unshaken.interop.load import LoadedModel, file_in, load_model
from unshaken.interop.model_card import card, front_matter, side_of
from unshaken.interop.usage_snippets import CODE, THEIRS
from unshaken.nets.checkpoint import FORMAT, digest, save_classifier, save_encoder
from unshaken.nets.network import Network


@dataclass(frozen=True)
class ExportOptions:
    """In which form, and where to."""

    to: Literal["safetensors", "timm", "torchvision", "onnx", "hub"] = "safetensors"
    out: Path | None = None
    """A file (a folder for --to hub); the page that describes it is written beside it."""
    route: str | None = None
    """Whose batch norms are merged into the network; the adversarial ones, if there is a choice."""
    license: str = "unknown"
    """Of the weights, for --to hub."""
    repo: str | None = None
    """OWNER/NAME: --to hub puts the folder there too, in a private repository."""

    def __post_init__(self) -> None:
        if self.repo is not None and (self.to != "hub" or self.repo.count("/") != 1):
            raise ValueError(f"--repo is OWNER/NAME, with --to hub; not {self.repo!r} with --to {self.to}")


def export(path: Path, how: ExportOptions, results: list[dict[str, Any]] = ()) -> Path:  # pyright: ignore[reportArgumentType]
    """Write a run's or a file's network in another form, with its page; returns the file, or the folder for a hub.

    results  the contents of result files that belong to it, for the page

    The same export again, after a stop at any moment, writes the same files. Nothing that is written holds a path.
    """
    whole = load_model(path)
    subject, route = whole.alone(how.route)
    made = {"fingerprint": fingerprint(subject), "exported": {"from": digest(whole.net), "route": route}}
    known = {part: value if part in WORDLESS else without_paths(value) for part, value in whole.about.items()}
    subject = replace(subject, about=known | made)
    out = _place(path, how, subject)
    if how.to == "hub":
        to_hub(subject, out, route, results, how.license)
        if how.repo:
            upload(out, how.repo)
        return out
    WRITERS[how.to](subject, out)
    page = card(subject, how.to, out.name, route, list(results), CODE[how.to](subject, out.name))
    write_text(page_of(out), f"{_mark(subject, out.name)}\n\n{page}")
    return out


WORDLESS = ("fingerprint", "names", "backbone", "routes", "kind")
"""Parts of a header that hold no path, and text that may look like one."""


def page_of(out: Path) -> Path:
    """Where the page of an exported file is: files of several forms may have one name."""
    return out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.md")


def _mark(subject: LoadedModel, file: str) -> str:
    """The first line of a page, by which it is known to be of these weights in this file."""
    weights = subject.about["fingerprint"]["weights"]
    return f"<!-- unshaken export, {blake2b(file.encode(), digest_size=4).hexdigest()}, weights {weights} -->"


def _place(path: Path, how: ExportOptions, subject: LoadedModel) -> Path:
    """Where to write: never over what is exported, nor over anything but an earlier export of the same weights."""
    suffix = SUFFIXES[how.to]
    out = how.out or Path(f"{path.resolve().name.removesuffix('.safetensors')}-{how.to}{suffix}")
    if how.to == "hub":
        if out.is_file() or (out.is_dir() and not _is_hub(out)):
            raise ValueError(f"--to hub writes a folder of its own, and {out} is something else; choose another --out")
    elif out.suffix != suffix:
        raise ValueError(f"--to {how.to} writes a file that ends in {suffix}, and {out} does not")
    elif out.resolve() == file_in(path).resolve():
        raise ValueError(f"{out} is what is exported; choose another --out")
    elif (out.exists() and not _is_export(out, subject)) or not _is_page(page_of(out), subject, out.name):
        raise ValueError(f"{out} or its page {page_of(out).name} is there already; choose another --out")
    return out


def _is_hub(folder: Path) -> bool:
    """Whether a folder was written for a hub, whole or in part: config.json comes after the weights."""
    config, names = folder / "config.json", {file.name for file in folder.iterdir() if file.suffix != ".part"}
    if config.exists():
        return _ours(config)
    return not names or (
        names == {"model.safetensors"} and _header(folder / "model.safetensors").get("format") == FORMAT
    )


def _ours(config: Path) -> bool:
    try:
        return read_foreign_json(config, {"library_name": str})["library_name"] == "unshaken"
    except ValueError:
        return False


def _is_export(out: Path, subject: LoadedModel) -> bool:
    """Whether a file is an export of the same weights, which is made again as it is."""
    weights = subject.about["fingerprint"]["weights"]
    if out.suffix == ".onnx":
        return f"unshaken {weights}".encode() in out.read_bytes()
    text = _header(out).get("about", "")
    return f'"weights": "{weights}"' in text or f'"digest": "{weights}"' in text


def _is_page(page: Path, subject: LoadedModel, file: str) -> bool:
    return not page.exists() or page.read_bytes().startswith(_mark(subject, file).encode())


def _header(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, "pt") as opened_file:
            return opened_file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def to_safetensors(subject: LoadedModel, out: Path) -> None:
    """A file of ours with one route: the normalisation, the weights, and how to build the network, in one."""
    if isinstance(subject.net, Network):
        save_classifier(out, subject.net, subject.backbone, tuple(subject.about["names"]), subject.about)
    else:
        save_encoder(out, subject.net, subject.backbone, subject.about)


def their_weights(subject: LoadedModel, whose: str) -> dict[str, Tensor]:
    """By torchvision's and timm's names. ValueError if they have no such network."""
    name = subject.backbone.name
    of_timm = name.startswith("timm/") or name == "vit-small"
    if name not in THEIRS and not (of_timm and whose == "timm"):
        raise ValueError(f"{whose} has no {name}: export it --to safetensors or --to onnx")
    weights = subject.encoder.backbone.state_dict()
    if isinstance(subject.net, Network):
        head = subject.encoder.backbone.pretrained_cfg["classifier"] if of_timm else "fc"  # pyright: ignore[reportArgumentType, reportIndexIssue]
        weights |= {f"{head}.{part}": tensor for part, tensor in subject.net.head.state_dict().items()}
    return weights


def _to_theirs(whose: str) -> Callable[[LoadedModel, Path], None]:
    def write(subject: LoadedModel, out: Path) -> None:
        """The normalisation is beside the weights, not in them.

        Folded into the first convolution it would be exact only where nothing is padded: zeros around a normalised
        image are the mean colour, and zeros around pixels are black.
        """
        weights = {name: tensor.contiguous() for name, tensor in their_weights(subject, whose).items()}
        about = {"backbone": to_json(subject.backbone), "digest": subject.about["fingerprint"]["weights"]}
        about |= {"names": subject.about["names"]} if subject.kind == "classifier" else {}
        metadata = {
            "format": "pt",
            "mean": json.dumps(subject.backbone.mean),
            "std": json.dumps(subject.backbone.std),
            "about": json.dumps(about),
        }
        write_bytes(out, *seal(save(weights, sealed(metadata))))

    return write


def to_onnx(subject: LoadedModel, out: Path) -> None:
    """Pixels in [0, 1] to features or logits, for batches of any size."""
    lacking = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise ValueError(f"--to onnx needs {' and '.join(lacking)}: pip install 'unshaken[onnx]'")
    net = subject.net
    whole = nn.Sequential(net.encoder, net.head) if isinstance(net, Network) else net
    pixels = images(subject.backbone.channels, side_of(subject))
    name = "logits" if subject.kind == "classifier" else "features"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        program = torch.onnx.export(
            whole.eval(),
            (pixels,),
            input_names=["pixels"],
            output_names=[name],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    stored = io.BytesIO()
    program.save(stored)  # pyright: ignore[reportArgumentType]
    write_bytes(out, _without_traces(stored.getvalue(), subject.about["fingerprint"]["weights"]))


def _without_traces(model: bytes, weights: str) -> bytes:
    """An ONNX file without the source lines that the exporter notes at each node, which hold this machine's paths."""
    import onnx

    whole = onnx.load_from_string(model)
    graphs = [whole.graph, *whole.functions]
    for part in [whole, *graphs, *(node for graph in graphs for node in graph.node)]:
        part.doc_string = ""
        del part.metadata_props[:]
    for value in [*whole.graph.value_info, *whole.graph.input, *whole.graph.output, *whole.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    whole.metadata_props.add(key="weights", value=f"unshaken {weights}")
    return whole.SerializeToString()


def to_hub(subject: LoadedModel, out: Path, route: str | None, results: list[dict[str, Any]], license: str) -> None:
    """A folder: model.safetensors, config.json, README.md."""
    file = out / "model.safetensors"
    to_safetensors(subject, file)
    backbone = {key: value for key, value in to_json(subject.backbone).items() if key != "type"}
    config = {"library_name": "unshaken", "format": FORMAT, "kind": subject.kind, "backbone": backbone, "route": route}
    config |= {"names": subject.about["names"]} if subject.kind == "classifier" else {}
    write_json(out / "config.json", config | {"weights": subject.about["fingerprint"]["weights"]})
    page = card(subject, "hub", file.name, route, list(results), CODE["hub"](subject, file.name))
    write_text(out / "README.md", front_matter(subject, license) + page)


def upload(folder: Path, repo: str) -> None:
    """To the Hugging Face Hub, as whoever is logged in there; a repository that is made for it is private."""
    if find_spec("huggingface_hub") is None:
        raise ValueError("--repo needs huggingface_hub: pip install 'unshaken[hub]'")
    import huggingface_hub

    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=str(folder), ignore_patterns=["*.part"])
    except Exception as error:  # without a network each version of it raises something else
        reason = printable((str(error).splitlines() or [type(error).__name__])[0])
        raise ValueError(f"{folder} is whole, but {repo} did not take it: {reason}") from None


SUFFIXES = dict.fromkeys(("safetensors", "timm", "torchvision"), ".safetensors") | {"onnx": ".onnx", "hub": ""}
WRITERS: dict[str, Callable[[LoadedModel, Path], None]] = {
    "safetensors": to_safetensors,
    "timm": _to_theirs("timm"),
    "torchvision": _to_theirs("torchvision"),
    "onnx": to_onnx,
}
