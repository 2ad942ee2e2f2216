"""Networks as others publish them: their names for weights, their arithmetic, nothing of ours.

A network is a function of `Weights`, which makes each tensor when it is first asked for: one call for each branch, and
the dictionary is what such a file holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, leaky_relu, max_pool2d

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


@dataclass
class Weights:
    prefix: str = ""
    state: dict[str, Tensor] = field(default_factory=dict)
    rng: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    def get(self, name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        if self.prefix + name not in self.state:
            made = torch.rand(shape, generator=self.rng) * (high - low) + low
            self.state[self.prefix + name] = made
        return self.state[self.prefix + name]

    def conv(self, name: str, x: Tensor, out: int, side: int, stride: int = 1, padding: int = 0) -> Tensor:
        bound = (3 / (x.shape[1] * side * side)) ** 0.5
        weight = self.get(f"{name}.weight", out, x.shape[1], side, side, low=-bound, high=bound)
        return conv2d(x, weight, stride=stride, padding=padding)

    def norm(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        """As a network in eval mode has it; every batch norm of every branch has numbers of its own."""
        count = x.shape[1]
        mean, var = self.get(f"{name}.running_mean", count), self.get(f"{name}.running_var", count, low=0.5, high=2)
        weight, bias = self.get(f"{name}.weight", count, low=0.5, high=1.5), self.get(f"{name}.bias", count)
        self.state[f"{self.prefix}{name}.num_batches_tracked"] = torch.tensor(7)
        return batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    def linear(self, name: str, features: int, out: int, bias: bool = True) -> None:
        self.get(f"{name}.weight", out, features)
        if bias:
            self.get(f"{name}.bias", out)

    def norm1d(self, name: str, count: int) -> None:
        self.norm(name, torch.zeros(1, count))


@dataclass(frozen=True)
class Style:
    """How a repository calls things, and what it does that weights do not show."""

    norm: Callable[[str, int], str] = lambda name, branch: name
    conv: Callable[[str], str] = lambda name: name
    shortcut: tuple[str, str] = ("downsample.0", "downsample.1")
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    stored: bool = False
    """Whether the normalisation is among the weights."""
    padding: int = 1
    wide: bool = False
    """7x7, stride 2, and a pool."""
    blocks: tuple[int, ...] = (1, 1)
    width: int = 32
    bottleneck: bool = False


def bn_list(name: str, branch: int) -> str:
    return f"{name}.bn_list.{branch}"


def adv_suffix(name: str, branch: int) -> str:
    return name + ("_adv" if branch else "")


def normalized(w: Weights, x: Tensor, style: Style) -> Tensor:
    if style.normalize is None:
        return x
    mean, std = (torch.tensor(part) for part in style.normalize)
    if style.stored:
        w.state[f"{w.prefix}normalize.mean"], w.state[f"{w.prefix}normalize.std"] = mean, std
    return (x - mean[:, None, None]) / std[:, None, None]


def resnet(w: Weights, x: Tensor, style: Style, branch: int = 0) -> Tensor:
    x = normalized(w, x, style)
    x = w.conv("conv1", x, style.width, 7, 2, 3) if style.wide else w.conv("conv1", x, style.width, 3, 1, style.padding)
    x = w.norm(style.norm("bn1", branch), x).relu()
    x = max_pool2d(x, 3, 2, 1) if style.wide else x
    for stage, count in enumerate(style.blocks):
        for k in range(count):
            stride = 2 if stage and not k else 1
            x = block(w, x, f"layer{stage + 1}.{k}", style.width * 2**stage, stride, style, branch)
    return x.mean((2, 3))


def block(w: Weights, x: Tensor, at: str, width: int, stride: int, style: Style, branch: int) -> Tensor:
    out = 4 * width if style.bottleneck else width
    plan = [(width, 1, 1), (width, 3, stride), (out, 1, 1)] if style.bottleneck else [(width, 3, stride), (width, 3, 1)]
    y = x
    for k, (channels, side, step) in enumerate(plan, start=1):
        y = w.conv(style.conv(f"{at}.conv{k}"), y, channels, side, step, side // 2)
        y = w.norm(style.norm(f"{at}.bn{k}", branch), y)
        y = y.relu() if k < len(plan) else y
    if stride != 1 or x.shape[1] != out:
        conv, norm = (f"{at}.{name}" for name in style.shortcut)
        x = w.norm(style.norm(norm, branch), w.conv(style.conv(conv), x, out, 1, stride))
    return (y + x).relu()


def wrn(w: Weights, x: Tensor, style: Style, branch: int = 0, blocks: int = 1, widen: int = 1) -> Tensor:
    """As TRADES, and who follows it, writes it: a ReLU and a batch norm before each convolution."""
    x = w.conv("conv1", normalized(w, x, style), 16, 3, 1, 1)
    for stage in (1, 2, 3):
        for k in range(blocks):
            at, width, stride = (
                f"block{stage}.layer.{k}",
                16 * widen * 2 ** (stage - 1),
                2 if stage > 1 and not k else 1,
            )
            first = w.norm(style.norm(f"{at}.bn1", branch), x).relu()
            y = w.conv(f"{at}.conv1", first, width, 3, stride, 1)
            y = w.conv(f"{at}.conv2", w.norm(style.norm(f"{at}.bn2", branch), y).relu(), width, 3, 1, 1)
            same = x.shape[1] == width
            x = y + (x if same else w.conv(f"{at}.convShortcut", first, width, 1, stride))
    return w.norm(style.norm("bn1", branch), x).relu().mean((2, 3))


def solo_wrn(w: Weights, x: Tensor, style: Style, branch: int = 0, blocks: int = 1, widen: int = 1) -> Tensor:
    """solo-learn's: leaky ReLUs, biases, ε = 0.001, and a shortcut that is activated in the first stage alone."""

    def act(name: str, x: Tensor) -> Tensor:
        return leaky_relu(w.norm(name, x, eps=1e-3), 0.1)

    def conv(name: str, x: Tensor, out: int, side: int, stride: int = 1) -> Tensor:
        return w.conv(name, x, out, side, stride, side // 2) + w.get(f"{name}.bias", out)[:, None, None]

    x = conv("conv1", normalized(w, x, style), 16, 3)
    for stage in (1, 2, 3):
        for k in range(blocks):
            at, width, stride = f"block{stage}.layer.{k}", 8 * widen * 2**stage, 2 if stage > 1 and not k else 1
            first = act(f"{at}.bn1", x)
            if x.shape[1] == width:
                x = x + conv(f"{at}.conv2", act(f"{at}.bn2", conv(f"{at}.conv1", first, width, 3, stride)), width, 3)
                continue
            x = first if stage == 1 else x
            y = conv(f"{at}.conv2", act(f"{at}.bn2", conv(f"{at}.conv1", x, width, 3, stride)), width, 3)
            x = conv(f"{at}.convShortcut", x, width, 1, stride) + y
    return act("bn1", x).mean((2, 3))


def acl_head(w: Weights, features: int, branches: int, three: bool = True, at: str = "fc") -> None:
    for k in (1, 2, 3) if three else (1, 2):
        w.linear(f"{at}.fc{k}", features, features, bias=k == 1)
        for branch in range(branches):
            w.norm1d(f"{at}.bn{k}.bn_list.{branch}", features)


def advcl_heads(w: Weights, features: int) -> None:
    for count in (2, 10, 50, 100, 500):
        w.linear(f"fc_{count:03}", features, count)
    for name, out in (("head_proj", 128), ("head_pred", 128), ("head_ce", 1000)):
        w.linear(f"{name}.0", features, features)
        w.norm1d(f"{name}.1", features)
        w.linear(f"{name}.3", features, out)


def moduled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As DataParallel saves it."""
    return {f"module.{name}": tensor for name, tensor in state.items()}
