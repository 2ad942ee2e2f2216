"""Our encoders and classifiers for others: safetensors, timm, torchvision, ONNX, and a folder for a hub."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from unshaken.base.canon import plain
from unshaken.base.files import read_foreign_json, write_bytes, write_json, write_text
from unshaken.base.tensor_file import seal, sealed
from unshaken.exchange.card import card, front_matter
from unshaken.exchange.fingerprint import fingerprint, images
from unshaken.exchange.loading import CODE, THEIRS
from unshaken.exchange.opening import Opened, file_in, opened
from unshaken.nets.embed import Network
from unshaken.nets.saved import FORMAT, digest, save_classifier, save_encoder


@dataclass(frozen=True)
class Exporting:
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
            raise ValueError("--repo OWNER/NAME goes with --to hub")


def export(path: Path, how: Exporting, results: list[dict[str, Any]] = ()) -> Path:
    """Write a run's or a file's network in another form, with its page; returns the file, or the folder for a hub.

    results  the contents of result files that belong to it, for the page
    """
    whole = opened(path)
    subject, route = whole.alone(how.route)
    made = {"fingerprint": fingerprint(subject), "exported": {"from": digest(whole.net), "route": route}}
    subject = replace(subject, about=whole.about | made)
    out = _place(path, how)
    if how.to == "hub":
        to_hub(subject, out, route, results, how.license)
        if how.repo:
            upload(out, how.repo)
        return out
    WRITERS[how.to](subject, out)
    page = card(subject, how.to, out.name, route, list(results), CODE[how.to](subject, out.name))
    write_text(out.with_suffix(".md"), page)
    return out


def _place(path: Path, how: Exporting) -> Path:
    """Where to write: never over what is exported, nor among other things."""
    suffix = SUFFIXES[how.to]
    out = how.out or Path(f"{path.resolve().name.removesuffix('.safetensors')}-{how.to}{suffix}")
    if how.to == "hub":
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not _ours(out / "config.json")):
            raise ValueError(f"--to hub writes a folder of its own, and {out} is something else; choose another --out")
    elif out.suffix != suffix:
        raise ValueError(f"--to {how.to} writes a file that ends in {suffix}, and {out} does not")
    elif out.resolve() == file_in(path).resolve():
        raise ValueError(f"{out} is what is exported; choose another --out")
    elif out.exists() or out.with_suffix(".md").exists():
        raise ValueError(f"{out} or its page {out.with_suffix('.md').name} is there already; choose another --out")
    return out


def _ours(config: Path) -> bool:
    try:
        return read_foreign_json(config, {"library_name": str})["library_name"] == "unshaken"
    except ValueError:
        return False


def to_safetensors(subject: Opened, out: Path) -> None:
    """A file of ours with one route: the normalisation, the weights, and how to build the network, in one."""
    if isinstance(subject.net, Network):
        save_classifier(out, subject.net, subject.backbone, tuple(subject.about["names"]), subject.about)
    else:
        save_encoder(out, subject.net, subject.backbone, subject.about)


def their_weights(subject: Opened, whose: str) -> dict[str, Tensor]:
    """By torchvision's and timm's names. ValueError if they have no such network."""
    name = subject.backbone.name
    of_timm = name.startswith("timm/") or name == "vit-small"
    if name not in THEIRS and not (of_timm and whose == "timm"):
        raise ValueError(f"{whose} has no {name}: export it --to safetensors or --to onnx")
    weights = subject.encoder.backbone.state_dict()
    if isinstance(subject.net, Network):
        head = subject.encoder.backbone.pretrained_cfg["classifier"] if of_timm else "fc"
        weights |= {f"{head}.{part}": tensor for part, tensor in subject.net.head.state_dict().items()}
    return weights


def _to_theirs(whose: str) -> Callable[[Opened, Path], None]:
    def write(subject: Opened, out: Path) -> None:
        """The normalisation is beside the weights, not in them.

        Folded into the first convolution it would be exact only where nothing is padded: zeros around a normalised
        image are the mean colour, and zeros around pixels are black.
        """
        weights = {name: tensor.contiguous() for name, tensor in their_weights(subject, whose).items()}
        about = {"backbone": plain(subject.backbone), "digest": subject.about["fingerprint"]["weights"]}
        about |= {"names": subject.about["names"]} if subject.kind == "classifier" else {}
        metadata = {
            "format": "pt",
            "mean": json.dumps(subject.backbone.mean),
            "std": json.dumps(subject.backbone.std),
            "about": json.dumps(about),
        }
        write_bytes(out, *seal(save(weights, sealed(metadata))))

    return write


def to_onnx(subject: Opened, out: Path) -> None:
    """Pixels in [0, 1] to features or logits, for batches of any size."""
    lacking = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise ValueError(f"--to onnx needs {' and '.join(lacking)}: pip install 'unshaken[onnx]'")
    net = subject.net
    whole = nn.Sequential(net.encoder, net.head) if isinstance(net, Network) else net
    pixels = images(subject.backbone.channels, subject.backbone.stem)
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
    program.save(stored)
    write_bytes(out, stored.getvalue())


def to_hub(subject: Opened, out: Path, route: str | None, results: list[dict[str, Any]], license: str) -> None:
    """A folder: model.safetensors, config.json, README.md."""
    file = out / "model.safetensors"
    to_safetensors(subject, file)
    backbone = {key: value for key, value in plain(subject.backbone).items() if key != "type"}
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
    from huggingface_hub.errors import HfHubHTTPError

    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=str(folder))
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{folder} is whole, but {repo} did not take it: {str(error).splitlines()[0]}") from None


SUFFIXES = dict.fromkeys(("safetensors", "timm", "torchvision"), ".safetensors") | {"onnx": ".onnx", "hub": ""}
WRITERS: dict[str, Callable[[Opened, Path], None]] = {
    "safetensors": to_safetensors,
    "timm": _to_theirs("timm"),
    "torchvision": _to_theirs("torchvision"),
    "onnx": to_onnx,
}
