"""Code for model cards: a few lines of Python that load each form of export."""

from __future__ import annotations

import json
from collections.abc import Callable

from unshaken.interop.load import LoadedModel
from unshaken.nets.resnet import SMALL
from unshaken.nets.timm_nets import patch_of

SHARED_RESNETS = ("resnet18", "resnet34", "resnet50")
"""Networks that torchvision and timm have under the same names."""
USE = ["net.load_state_dict(weights)", "out = net.eval()((pixels - mean) / std)"]


def in_unshaken(subject: LoadedModel, file: str) -> str:
    """Return code that loads an unshaken file by unshaken, and without it if torchvision has the network."""
    values, call = "net, backbone, metadata", "net.eval()(pixels)"
    if subject.kind == "classifier":
        values, call = "net, metadata", 'net.eval()(pixels, "adv")'
    lines = ["from pathlib import Path", "import unshaken", ""]
    lines += [f"{values} = unshaken.load_{subject.kind}(Path({quoted(file)}))"]
    text = fenced([*lines, f"out = {call}"])
    if subject.backbone.name not in SHARED_RESNETS:
        return text
    within = "encoder." if subject.kind == "classifier" else ""
    start = f"{within}backbone."
    lines = [
        "import torch, torchvision",
        "from safetensors.torch import load_file",
        "",
        f"file = load_file({quoted(file)})",
    ]
    lines += [
        f'weights = {{name.removeprefix("{start}"): w for name, w in file.items() if name.startswith("{start}")}}'
    ]
    lines += ['weights |= {f"fc.{part}": file[f"head.{part}"] for part in ("weight", "bias")}'] if within else []
    lines += [f'mean, std = file["{within}normalize.mean"], file["{within}normalize.std"]']
    return f"{text}\n\nWithout unshaken:\n\n{fenced([*lines, *_network(subject, 'torchvision.models.'), *USE])}"


def in_library(subject: LoadedModel, file: str, library: str) -> str:
    """Return code that loads an export for timm or torchvision by that library."""
    make = {"timm": "timm.create_model(", "torchvision": "torchvision.models."}[library]
    lines = ["import json", "import torch", f"import {library}", "from safetensors import safe_open", ""]
    lines += [f'with safe_open({quoted(file)}, "pt") as file:']
    lines += ["    weights = {name: file.get_tensor(name) for name in file.keys()}"]
    numbers = 'torch.tensor(json.loads(file.metadata()["{}"])).view(-1, 1, 1)'
    lines += [f"    {part} = {numbers.format(part)}" for part in ("mean", "std")]
    return f"{fenced([*lines, *_network(subject, make), *USE])}\n\n{BESIDE_CPU}"


BESIDE_CPU = (
    "If the import fails with `operator torchvision::nms does not exist`, torchvision was built for CUDA and torch was "
    "not. Install both from the same index, such as by `pip install torch torchvision --index-url "
    "https://download.pytorch.org/whl/cpu`, or call `unshaken.nets.torchvision_ops.declare_operators()` before."
)


AS_BEFORE = (
    "It has the names, order and dtypes of the file from which the encoder was imported: load it in its place, with "
    "the same code, the same preprocessing, and everything else that was in that file."
)


def onnx(subject: LoadedModel, file: str) -> str:
    lines = ["import onnxruntime", "", f"session = onnxruntime.InferenceSession({quoted(file)})"]
    return fenced([*lines, '(out,) = session.run(None, {"pixels": pixels.numpy()})'])


def _network(subject: LoadedModel, make: str) -> list[str]:
    """Return code that builds the library's network, with the stem and the output that these weights need."""
    backbone, timm = subject.backbone, make.startswith("timm")
    count = len(subject.metadata["names"]) if subject.kind == "classifier" else 0
    options = [f"num_classes={count}"] if count or timm else []
    if not timm:
        lines = [f"net = {make}{backbone.name}({', '.join(options)})"]
        return [*lines, *_stem(subject, timm), *([] if count else ["net.fc = torch.nn.Identity()"])]
    name = backbone.name.removeprefix("timm/")
    if backbone.channels != 3:
        options += [f"in_chans={backbone.channels}"]
    if backbone.variant is not None:
        options = [*POOLS[backbone.variant.pool], *options[1:], "dynamic_img_size=True"]
    elif hasattr(subject.encoder.backbone, "patch_embed"):  # position embeddings are learned for one size of images
        options += [f"img_size={backbone.image_size}"]
    if name == "vit-small":
        name, options = "vit_small_patch16_224", [*options, f"patch_size={patch_of(backbone.image_size)}"]
    return [f'net = {make}"{name}", {", ".join(options)})', *_stem(subject, timm)]


POOLS = {
    "projection": [],
    "attention": ["num_classes=0"],
    "class": ["num_classes=0", 'global_pool="token"'],
    "mean": ["num_classes=0", 'global_pool="avg"', "fc_norm=False"],
}
"""Arguments of timm's builder by the embedding; by default a network of CLIP has its projection."""


def _stem(subject: LoadedModel, timm: bool) -> list[str]:
    """Return code that replaces the stem: for small images it is one convolution without pooling."""
    backbone = subject.backbone
    if backbone.name in SHARED_RESNETS and backbone.image_size <= SMALL:
        shape = f"{backbone.channels}, 64, 3, padding={backbone.padding}, bias=False"
        return [f"net.conv1, net.maxpool = torch.nn.Conv2d({shape}), torch.nn.Identity()"]
    if not timm and backbone.channels != 3:
        return [f"net.conv1 = torch.nn.Conv2d({backbone.channels}, 64, 7, 2, padding=3, bias=False)"]
    return []


def quoted(name: str) -> str:
    """Return a name as a Python string literal, whatever characters it has."""
    return json.dumps(name)


def fenced(lines: list[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


CODE: dict[str, Callable[[LoadedModel, str], str]] = {
    "safetensors": in_unshaken,
    "hub": in_unshaken,
    "timm": lambda subject, file: in_library(subject, file, "timm"),
    "torchvision": lambda subject, file: in_library(subject, file, "torchvision"),
    "onnx": onnx,
    "original": lambda subject, file: AS_BEFORE,
}
"""The code for each form. It computes `out` from `pixels`, which are (N, C, H, W) in [0, 1]."""
