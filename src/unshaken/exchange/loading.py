"""The few lines of Python that load each kind of exported file, for its page; a test runs them."""

from __future__ import annotations

from collections.abc import Callable

from unshaken.exchange.opening import Opened


def ours(subject: Opened, file: str) -> str:
    """By unshaken; and by plain torch and torchvision, where torchvision has the network."""
    kind = subject.kind
    call = 'net(pixels, "adv")' if kind == "classifier" else "net(pixels)"
    first = "net, about" if kind == "classifier" else "net, backbone, about"
    lines = ["import unshaken", "from pathlib import Path", "", f'{first} = unshaken.load_{kind}(Path("{file}"))']
    text = fenced([*lines, f"out = {call.replace('net(', 'net.eval()(')}"])
    prefix = "encoder." if kind == "classifier" else ""
    if subject.backbone.name not in ("resnet18", "resnet34", "resnet50"):
        return text
    head = {"fc.": "head."} if kind == "classifier" else {}
    start = f"{prefix}backbone."
    pick = [
        f'weights = {{name.removeprefix("{start}"): w for name, w in file.items() if name.startswith("{start}")}}',
        *(
            f'weights |= {{f"{a}{{part}}": file[f"{b}{{part}}"] for part in ("weight", "bias")}}'
            for a, b in head.items()
        ),
        f'mean, std = file["{prefix}normalize.mean"], file["{prefix}normalize.std"]',
    ]
    lines = ["import torch, torchvision", "from safetensors.torch import load_file", "", f'file = load_file("{file}")']
    lines += [*pick, *_network(subject, "torchvision.models."), *_use(subject)]
    return f"{text}\n\nWithout unshaken:\n\n{fenced(lines)}"


def theirs(subject: Opened, file: str, whose: str) -> str:
    make = {"timm": "timm.create_model(", "torchvision": "torchvision.models."}[whose]
    lines = ["import json, torch", f"import {whose}", "from safetensors import safe_open", ""]
    lines += [f'with safe_open("{file}", "pt") as file:']
    lines += ["    weights = {name: file.get_tensor(name) for name in file.keys()}"]
    numbers = 'torch.tensor(json.loads(file.metadata()["{}"])).view(-1, 1, 1)'
    lines += [f"    mean, std = {numbers.format('mean')}, {numbers.format('std')}"]
    return fenced([*lines, *_network(subject, make), *_use(subject)])


def onnx(subject: Opened, file: str) -> str:
    lines = ["import onnxruntime", "", f'session = onnxruntime.InferenceSession("{file}")']
    return fenced([*lines, '(out,) = session.run(None, {"pixels": pixels.numpy()})'])


def _network(subject: Opened, make: str) -> list[str]:
    """Theirs with the stem and the output of ours. A stem for small images is one convolution and no pooling."""
    backbone = subject.backbone
    name, timm = backbone.name.removeprefix("timm/"), make.startswith("timm")
    count = len(subject.about["names"]) if subject.kind == "classifier" else 0
    options = f"num_classes={count}" if count or timm else ""
    if timm and backbone.channels != 3:
        options += f", in_chans={backbone.channels}"
    lines = [f'net = {make}"{name}", {options})' if timm else f"net = {make}{name}({options})"]
    if backbone.name.startswith("timm/"):
        return lines
    if backbone.stem <= 32:
        shape = f"{backbone.channels}, 64, 3, padding={backbone.padding}, bias=False"
        lines += [f"net.conv1, net.maxpool = torch.nn.Conv2d({shape}), torch.nn.Identity()"]
    elif backbone.channels != 3 and not timm:
        lines += [f"net.conv1 = torch.nn.Conv2d({backbone.channels}, 64, 7, 2, padding=3, bias=False)"]
    return lines if count or timm else [*lines, "net.fc = torch.nn.Identity()"]


def _use(subject: Opened) -> list[str]:
    return ["net.load_state_dict(weights)", "out = net.eval()((pixels - mean) / std)"]


def fenced(lines: list[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


CODE: dict[str, Callable[[Opened, str], str]] = {
    "safetensors": ours,
    "hub": ours,
    "timm": lambda subject, file: theirs(subject, file, "timm"),
    "torchvision": lambda subject, file: theirs(subject, file, "torchvision"),
    "onnx": onnx,
}
"""By form: `pixels` (N C H W in [0, 1]) to `out`."""
