"""Recipes in miniature on any device, and draws that are the same on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import unshaken
from unshaken.base.rng import Key
from unshaken.base.schedule import Constant
from unshaken.base.types import Batch
from unshaken.compute.runtime import Runtime
from unshaken.data.images import Images
from unshaken.methods.autolora import AutoLoRa
from unshaken.methods.base import Method, Step
from unshaken.methods.supervised import AFF, ALF, SLF
from unshaken.nets.dual_bn import single_route
from unshaken.nets.heads import Head, NoHead, zero_classifier
from unshaken.nets.lora import with_lora
from unshaken.nets.network import Network, seeded
from unshaken.recipes.catalog import RECIPES
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.first_network import first_network
from unshaken.train.attack_policy import replace_attacks
from unshaken.train.batches import BatchStream, Position
from unshaken.train.optim import SGD, Optimizer
from unshaken.transforms.views import CropFlip, Views

KEY = Key(0) / "gpu tests"
CLASSES = 10
TUNED: dict[str, Method] = {"slf": SLF(), "alf": ALF(), "aff": AFF(), "autolora": AutoLoRa()}
PRETRAINED = tuple(name for name in RECIPES if isinstance(unshaken.recipe(f"{name}/digits"), Pretrain))
RECIPES = (*PRETRAINED, *TUNED)
"""All that has a step of its own: DynACL++ is one of these after the other."""


def recipes(*on_cpu: str, on_cuda: tuple[str, ...] = RECIPES) -> Callable[[Callable], Callable]:
    """Which ones a test's `step_of` is: a few in the ordinary suite, for the others go the same way."""

    def noted(test: Callable) -> Callable:
        test.recipes = on_cpu, on_cuda
        return test

    return noted


class OtherDevice(torch.Generator):
    """A generator of the CPU that says it is of another device."""

    place = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        return self.place


class DrawnOnCPU(TorchFunctionMode):
    """What is drawn for another device is drawn on the CPU, in float32, and moved."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        rng = kwargs.get("generator")
        if not isinstance(rng, OtherDevice) or rng.place.type == "cpu":
            return func(*args, **kwargs)
        if args and isinstance(args[0], Tensor):  # x.uniform_(low, high, generator=rng)
            drawn = torch.empty_like(args[0], device="cpu")
            return args[0].copy_(func(drawn, *args[1:], **kwargs))
        return func(*args, **kwargs | {"device": "cpu"}).to(rng.place)


@contextmanager
def equal_draws() -> Iterator[None]:
    """One key gives the same numbers on every device, those of the CPU."""

    def on(key: Key, device: torch.device | str) -> torch.Generator:
        rng = OtherDevice("cpu")
        rng.manual_seed(key.number)
        rng.place = torch.device(device)
        return rng

    with patch.object(Key, "on", on), DrawnOnCPU():
        yield


@contextmanager
def other_rounding(device: str) -> Iterator[None]:
    """On the CPU convolutions by another library, which adds up in another order; on a GPU that is so anyway."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(before and device != "cpu")
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def classes_of(side: int = 8, channels: int = 1, count: int = 64) -> Images:
    """Ten blurred patterns, and images near them, in the order of a shuffled set."""
    rng = (KEY / "images" / side / channels).on("cpu")
    coarse = torch.rand(CLASSES, channels, side // 2, side // 2, generator=rng)
    pattern = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    label = torch.arange(count) % CLASSES
    x = pattern[label] + 0.1 * torch.randn(count, channels, side, side, generator=rng)
    pixels = (255 * x.clamp(0, 1)).round().byte()
    return Images(pixels, label, tuple("0123456789"))


@dataclass(frozen=True)
class Course:
    """What a step needs, before it is on a device."""

    method: Method
    net: Network
    views: Views
    optimizer: Optimizer
    images: Images
    label: Tensor | None
    batch: int

    def on(self, runtime: Runtime) -> tuple[Step, BatchStream]:
        """As `Pretrain.run` puts them there."""
        device = runtime.open().device
        net = self.net.to(device)
        step = Step(self.method, net)
        runtime.prepare(net)
        if net.memory is not None:
            net.memory.to(device)
        if isinstance(self.method, AutoLoRa):  # else every image is a natural one, and nothing learns from attacks
            net.memory.accuracy.fill_(0.5)
        feed = BatchStream(self.images, self.views, Constant(1.0), self.batch, 2, KEY, self.label)
        return step, feed.to(device)


def from_the_ball(made: Course) -> Course:
    """With attacks that start anywhere in the ball: next to an image a divergence's gradient is mere rounding."""
    method = replace_attacks(made.method, lambda attack: replace(attack, init="uniform"))
    return replace(made, method=method)


def without_steps(made: Course) -> Course:
    """With attacks that stay where they start, anywhere in the ball."""
    return replace(made, method=replace_attacks(made.method, lambda attack: replace(attack, init="uniform", steps=0)))


def course(name: str, data: str = "digits", batch: int = 16, network: str | None = None) -> Course:
    """A recipe on images made here, its teacher as it was born and its clusters by chance.

    network  in the place of the recipe's own: resnet-small on cifar10 has a small network, and views in colour
    """
    recipe = unshaken.recipe(f"{'acl' if name in TUNED else name}/{data}")
    recipe = replace(recipe, backbone=replace(recipe.backbone, name=network or recipe.backbone.name))
    images = classes_of(recipe.backbone.image_size, recipe.backbone.channels, 4 * batch)
    if name in TUNED:
        return tuned(name, recipe, images, batch)
    clusters = recipe.clusters
    wants = {"true": (CLASSES,), "clusters": clusters, "": ()}[recipe.method.labels]
    chance = [torch.randint(k, (len(images),), generator=(KEY / "clusters" / k).on("cpu")) for k in clusters]
    label = {"true": images.label, "clusters": torch.stack(chance, 1) if chance else None, "": None}
    net = embedder(recipe, wants)
    return Course(recipe.method, net, recipe.views, recipe.optimizer, images, label[recipe.method.labels], batch)


def embedder(recipe: Pretrain, classes: tuple[int, ...]) -> Network:
    net = first_network(recipe, classes) if recipe.method.teacher != "frozen" else None
    if net is None:
        net = recipe.build_network(classes)
        net.teacher = seeded(lambda: headed(recipe, NoHead()), KEY / "teacher")
    return net


def headed(recipe: Pretrain, head: Head) -> Network:
    encoder = recipe.backbone.build()
    return Network(encoder, head.build(encoder.features, ()))


def tuned(name: str, recipe: Pretrain, images: Images, batch: int) -> Course:
    method = TUNED[name]
    if hasattr(method, "attack"):
        method = replace(method, attack=replace(method.attack, ball=recipe.method.attack.ball))
    encoder = recipe.build_network().encoder
    encoder = encoder if len(method.routes) > 1 else single_route(encoder, "adv")
    encoder = with_lora(encoder, KEY / "branch", method.rank, method.alpha) if name == "autolora" else encoder
    net = Network(encoder, zero_classifier(encoder.features, CLASSES))
    torch.nn.init.normal_(net.head.weight, std=0.1, generator=(KEY / "head").on("cpu"))
    return Course(method, net, CropFlip(padding=1), SGD(), images, images.label, batch)


@dataclass(frozen=True)
class Outcome:
    """What one update was: terms of the loss, gradients, weights afterwards; all on the CPU, in float64."""

    terms: dict[str, float]
    grads: dict[str, Tensor]
    weights: dict[str, Tensor]

    @property
    def loss(self) -> float:
        return self.terms["loss"]

    @property
    def slope(self) -> Tensor:
        return torch.cat([grad.flatten() for grad in self.grads.values()])


def updated(made: Course, runtime: Runtime, steps: int = 1) -> Outcome:
    """The last of so many updates, at a rate of 0.1."""
    step, feed = made.on(runtime)
    rule = made.optimizer.build(step)
    for group in rule.param_groups:
        group["lr"] = 0.1
    for _, (place, _, batch) in zip(range(steps), feed.after(Position()), strict=False):
        rule.zero_grad()
        terms = looked(step, feed, place, batch)
        terms["loss"].backward()
        rule.step()
    asked = {name: p for name, p in step.named_parameters() if p.requires_grad and p.grad is not None}
    return Outcome(
        {name: float(value.detach()) for name, value in terms.items()},
        {name: p.grad.cpu().double() for name, p in asked.items()},
        {name: p.detach().cpu().double() for name, p in asked.items()},
    )


def looked(step: Step, feed: BatchStream, place: Position, batch: Batch) -> dict[str, Tensor]:
    return step(batch, feed.clock(place), feed.key / "step" / place.step)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0))


def classifier(images: Images, device: str) -> Network:
    """Least squares on the features of a network as it was born: right on most of the images, and easy to attack."""
    backbone = unshaken.recipe("acl/digits").backbone

    def build() -> Network:
        encoder = backbone.build()
        return Network(encoder, zero_classifier(encoder.features, CLASSES))

    net = seeded(build, KEY / "classifier")
    with torch.no_grad():
        net.encoder.train()(images.floats())
        f = net.encoder.eval()(images.floats()).double()
        f = torch.cat([f, torch.ones(len(f), 1)], 1)
        wanted = torch.nn.functional.one_hot(images.label, CLASSES).double()
        theta = torch.linalg.solve(f.T @ f + 0.1 * torch.eye(f.shape[1]), f.T @ wanted)
        net.head.weight.copy_(10 * theta[:-1].T)
        net.head.bias.copy_(10 * theta[-1])
    return net.eval().requires_grad_(False).to(device)
