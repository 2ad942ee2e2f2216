"""A method at work as a problem for a selector: gradients of its loss by the head, and how far attacks move h(x)"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import skip_init

from unshaken.base.clock import Clock
from unshaken.base.keys import Key
from unshaken.base.types import Batch, Float, Int
from unshaken.coreset.gradients import Factors, Gradients, Layer, Theta, joined, summed
from unshaken.coreset.problem import Granularity, Problem
from unshaken.data.images import Images
from unshaken.losses.diverge import ROWS, Distance, representational
from unshaken.methods.method import Method, Step
from unshaken.nets import routed
from unshaken.nets.embed import Network
from unshaken.pixels.augment import Views
from unshaken.threat.pgd import PGD, displaced


@dataclass(frozen=True, eq=False)
class Posed(Problem):
    """`posed` makes it. The network is a copy, in eval mode, in which only the head's linear layers have gradients.

    views and strength  of the training that follows; the loss is the method's own, at `clock`, its own attack included
    at_most             images that go through the network at a time where the method does not say
    """

    method: Method
    net: Network
    images: Images
    label: Int[Tensor, "N ..."] | None
    views: Views
    strength: float
    batches: tuple[Int[Tensor, "b"], ...]
    held: Int[Tensor, "U"]
    clock: Clock
    key: Key
    at_most: int
    state: dict[str, Tensor] = field(init=False)
    theta: Theta = field(init=False)

    def __post_init__(self) -> None:
        state = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        object.__setattr__(self, "state", state)
        theta = {name: p.detach().clone() for name, p in self.net.head.named_parameters() if p.requires_grad}
        object.__setattr__(self, "theta", theta)

    def gradients(self, batches: Sequence[int], granularity: Granularity) -> Gradients:
        layers = linear_layers(self.net.head)
        found: dict[str, list[Layer]] = {name: [] for name in layers}
        most = max(len(self.batches[b]) for b in batches)
        for b in batches:
            for name, samples in self._samples(b).items():
                found[name].append(samples if granularity == "sample" else summed(samples, most))
        index = torch.cat([self.batches[b] for b in batches])
        sizes = (1,) * len(index) if granularity == "sample" else tuple(len(self.batches[b]) for b in batches)
        biased = frozenset(name for name, linear in layers.items() if linear.bias is not None)
        return Gradients(index, sizes, {name: joined(parts) for name, parts in found.items()}, biased)

    def losses(self) -> Float[Tensor, "B"]:
        values = []
        for b in range(len(self.batches)):
            with self._kept(), torch.no_grad():
                values.append(self._loss(b))
        return torch.stack(values)

    @torch.no_grad()
    def features(self) -> Float[Tensor, "N D"]:
        return torch.cat([self.net.features(x, self._clean) for x in self._images(self.index)])

    def distances(self, distance: Distance, attack: PGD) -> Float[Tensor, "N"]:
        if distance not in ROWS:
            raise ValueError(f"of a single image there is no distance {distance!r}; there are {', '.join(ROWS)}")
        values = []
        for part, x in enumerate(self._images(self.index)):
            x_adv, z = self._attacked(x, self.theta, distance, attack, self.key / "distance" / part)
            values.append(ROWS[distance](self._embed(x_adv, self._adv, self.theta).detach(), z))
        return torch.cat(values)

    def validation(self, theta: Theta, distance: Distance, attack: PGD) -> Callable[[Theta], Float[Tensor, ""]]:
        f_adv, f = [], []
        for part, x in enumerate(self._images(self.held)):
            x_adv, _ = self._attacked(x, theta, distance, attack, self.key / "validation" / part)
            with torch.no_grad():
                f_adv.append(self.net.features(x_adv, self._adv))
                f.append(self.net.features(x, self._clean))
        f_adv, f = torch.cat(f_adv), torch.cat(f)
        return lambda theta: representational(
            self._headed(f_adv, self._adv, theta), self._headed(f, self._clean, theta), distance
        )

    @property
    def _clean(self) -> str:
        return self.method.routes[0]

    @property
    def _adv(self) -> str:
        return "adv" if "adv" in self.method.routes else self.method.routes[0]

    def _images(self, index: Int[Tensor, "n"]) -> Iterator[Float[Tensor, "n C H W"]]:
        for part in index.split(self.at_most):
            yield self.images.floats(part.to(self.images.pixels.device))

    def _attacked(
        self, x: Float[Tensor, "n C H W"], theta: Theta, distance: Distance, attack: PGD, key: Key
    ) -> tuple[Float[Tensor, "n C H W"], Float[Tensor, "n D"]]:
        """x̃ = argmax of d(h(x̃), h(x)), and h(x). Of ot, the coupling is among these images."""
        with torch.no_grad():
            z = self._embed(x, self._clean, theta)
        rows = ROWS.get(distance, lambda z_adv, z: representational(z_adv, z, distance))
        fixed = {name: value.detach() for name, value in theta.items()}  # the input alone is differentiated
        return displaced(attack, lambda x: self._embed(x, self._adv, fixed), rows, x, z, key.on(x.device)), z

    def _embed(self, x: Float[Tensor, "n C H W"], route: str, theta: Theta) -> Float[Tensor, "n D"]:
        return self._headed(self.net.features(x, route), route, theta)

    def _headed(self, f: Float[Tensor, "n D"], route: str, theta: Theta) -> Float[Tensor, "n D"]:
        """g(f; θ), float32; of a head that also classifies, its projection."""
        head = self.net.head
        routed.take(head, route)
        z = functional_call(head, theta, (f,))
        return head.split(z)[0] if hasattr(head, "split") else z

    def _loss(self, b: int) -> Float[Tensor, ""]:
        """The method's own, of one mini-batch."""
        index = self.batches[b].to(self.images.pixels.device)
        image = self.images.floats(index)
        views = self.views(image, self.strength, self.key / "views" / b)
        batch = Batch(views, image, None if self.label is None else self.label[index], index)
        return self.method.loss(self.net, batch, self.clock, self.key / "loss" / b)["loss"]

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """The network is afterwards what it was: a loss may move a teacher or note something in the memory."""
        try:
            yield
        finally:
            now = self.net.state_dict()
            with torch.no_grad():
                for name, value in self.state.items():
                    now[name].copy_(value)

    def _samples(self, b: int) -> dict[str, Factors]:
        """By layer, each image's part in the gradient of its mini-batch's loss.

        Of every call of the layer that the loss depends on, which the attack's are not. A network has all leading
        axes as one batch, the images last of them: row r is of image r mod b.
        """
        with self._kept(), recorded(linear_layers(self.net.head)) as calls:
            loss = self._loss(b)
            grads = iter(torch.autograd.grad(loss, [y for made in calls.values() for _, y in made], allow_unused=True))
        used = {name: [(a, next(grads)) for a, _ in made] for name, made in calls.items()}
        images, layers = len(self.batches[b]), linear_layers(self.net.head)
        return {
            name: factors(layers[name], images, [(a, d) for a, d in rows if d is not None])
            for name, rows in used.items()
        }


def factors(linear: nn.Linear, images: int, calls: list[tuple[Tensor, Tensor]]) -> Factors:
    """From a layer's inputs and its outputs' gradients, rows of each call, to those of each image."""
    biased = linear.bias is not None
    inputs = [linear.weight.new_empty(images, 0, linear.in_features + biased)]
    outputs = [linear.weight.new_empty(images, 0, linear.out_features)]
    for a, d in calls:
        ones = [linear.weight.new_ones(len(a), 1)] if biased else []
        inputs.append(torch.cat([a.float(), *ones], 1).unflatten(0, (-1, images)).transpose(0, 1))
        outputs.append(d.float().unflatten(0, (-1, images)).transpose(0, 1))
    return Factors(torch.cat(inputs, 1), torch.cat(outputs, 1))


def posed(
    step: Step,
    images: Images,
    label: Int[Tensor, "N ..."] | None,
    views: Views,
    strength: float,
    batch: int,
    index: Int[Tensor, "X"],
    held: Int[Tensor, "U"],
    clock: Clock,
    key: Key,
    attack_steps: int | None = None,
) -> Posed:
    """The problem of an instant. Neither the network nor anything else is changed by it or by its answers.

    batch         images in a mini-batch; which ones chance decides
    index, held   the candidates X and the validation images U
    attack_steps  None: the method's own; 1 is fast and, after the first epochs, picks much the same
    """
    order = index[torch.randperm(len(index), generator=(key / "batches").on("cpu"))]
    batches = list(order.split(batch))
    if len(batches) > 1 and len(batches[-1]) == 1:  # alone, an image has nothing to be contrasted with
        batches[-2:] = [torch.cat(batches[-2:])]
    method = step.method if attack_steps is None else hurried(step.method, attack_steps)
    return Posed(
        method, still(step.net), images, label, views, strength, tuple(batches), held, clock, key, max(batch, 256)
    )


def still(net: Network) -> Network:
    """A copy in eval mode, of which only the head's linear layers have gradients.

    A head that does nothing becomes the identity matrix, whose outputs are the same and which has a gradient: that of a
    linear layer put there.
    """
    net = copy.deepcopy(net).requires_grad_(False).eval()
    if isinstance(net.head, nn.Identity):
        width, device = net.encoder.features, next(net.encoder.parameters()).device
        net.head = skip_init(nn.Linear, width, width, bias=False, device=device).requires_grad_(False).eval()
        nn.init.eye_(net.head.weight)
    layers = linear_layers(net.head)
    if not layers:
        raise ValueError("gradients are taken by the linear layers of a head, and this head has none")
    for linear in layers.values():
        linear.requires_grad_()
    return net


def linear_layers(head: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in head.named_modules() if isinstance(module, nn.Linear)}


@contextmanager
def recorded(layers: dict[str, nn.Linear]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """What goes into linear layers and comes out, of each call that has a gradient."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def note(name: str, given: Tensor, y: Tensor) -> Tensor | None:
        if not y.requires_grad:
            return None
        calls[name].append((given.detach(), y))
        return y.clone()  # what follows may work in place, and y has to stay what the gradient is taken by

    hooks = [
        linear.register_forward_hook(lambda _, given, y, name=name: note(name, given[0], y))
        for name, linear in layers.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def hurried(method: Any, steps: int) -> Any:
    """The same with attacks of so many steps, wherever it holds one, which reach as far: strides grow as steps fall."""
    if isinstance(method, PGD):
        return replace(method, steps=steps, stride=method.stride * method.steps / steps) if method.steps else method
    if not is_dataclass(method):
        return method
    held = {part.name: getattr(method, part.name) for part in fields(method)}
    changed = {name: hurried(value, steps) for name, value in held.items()}
    return replace(method, **{name: value for name, value in changed.items() if value is not held[name]})
