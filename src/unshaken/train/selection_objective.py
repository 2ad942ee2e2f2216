"""A method at work as a problem for a selector: gradients of its loss by the head, and how far attacks move h(x)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import skip_init

from unshaken.attacks.pgd import PGD, embedding_attack
from unshaken.base.distributed import Processes, processes
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Float, Int
from unshaken.compute.bn_folding import fold_batch_norms, frozen_copy
from unshaken.coreset.gradients import Factors, Gradients, Layer, Theta, concatenate, sum_samples
from unshaken.coreset.objective import Granularity, SelectionObjective
from unshaken.losses.divergence import ROWS, Distance, representational_divergence
from unshaken.methods.base import Method, Step
from unshaken.nets import dual_bn as routed
from unshaken.nets.network import Network
from unshaken.train.approximations import unwrapped
from unshaken.train.attack_cache import AttackCache, CachedAttack, replace_attacks, with_attack_steps
from unshaken.train.batches import BatchStream, Position

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """Candidates that are seen together.

    views, strength  the key and the strength of their augmentation
    side             of the views, as a part of the images' own
    attacks          what the training found against these very views, if it is to be used again
    """

    index: Int[Tensor, "b"]
    views: Key
    strength: float
    side: float = 1.0
    attacks: AttackCache | None = None


@dataclass(frozen=True, eq=False)
class MethodObjective(SelectionObjective):
    """`posed` makes it. The network is a copy, in eval mode, in which only the head's linear layers have gradients.

    feed     of the training that follows; the loss is the method's own, at `clock`, its own attack included
    at_most  images that go through the network at a time where the method does not say
    """

    method: Method
    net: Network
    feed: BatchStream
    candidates: tuple[MiniBatch, ...]
    held: Int[Tensor, "U"]
    clock: Clock
    key: Key
    at_most: int
    processes: Processes = Processes()
    state: dict[str, Tensor] = field(init=False)
    theta: Theta = field(init=False)
    batches: tuple[Int[Tensor, "b"], ...] = field(init=False)

    def __post_init__(self) -> None:
        state = {name: value.detach().clone() for name, value in self._changing().items()}
        theta = {name: p.detach().clone() for name, p in self.net.head.named_parameters() if p.requires_grad}
        batches = tuple(candidates.index for candidates in self.candidates)
        for name, value in (("state", state), ("theta", theta), ("batches", batches)):
            object.__setattr__(self, name, value)

    def gradients(self, batches: Sequence[int], granularity: Granularity) -> Gradients:
        layers = linear_layers(self.net.head)
        most = max(len(self.batches[b]) for b in batches)

        def piece(k: int) -> dict[str, Layer]:
            samples = self._samples(batches[k])
            return {n: one if granularity == "sample" else sum_samples(one, most) for n, one in samples.items()}

        found = self.processes.each(len(batches), piece)
        index = torch.cat([self.batches[b] for b in batches])
        sizes = (1,) * len(index) if granularity == "sample" else tuple(len(self.batches[b]) for b in batches)
        biased = frozenset(name for name, linear in layers.items() if linear.bias is not None)
        # one layer after the other, so that only one of them is in memory twice
        return Gradients(
            index, sizes, {name: concatenate([part.pop(name) for part in found]) for name in layers}, biased
        )

    def losses(self) -> Float[Tensor, "B"]:
        def piece(b: int) -> Tensor:
            with self._kept(), torch.no_grad():
                return self._loss(b)

        return torch.stack(self.processes.each(len(self.batches), piece))

    @torch.no_grad()
    def features(self) -> Float[Tensor, "N D"]:
        return torch.cat(self._each(self.index, lambda part, x: self.net.features(x, self._clean)))

    def distances(self, distance: Distance, attack: PGD) -> Float[Tensor, "N"]:
        if distance not in ROWS:
            raise ValueError(f"of a single image there is no distance {distance!r}; there are {', '.join(ROWS)}")

        def piece(part: int, x: Tensor) -> Tensor:
            x_adv, z = self._attacked(x, self.theta, distance, attack, self.key / "distance" / part)
            return ROWS[distance](self._embed(x_adv, self._adv, self.theta).detach(), z)

        return torch.cat(self._each(self.index, piece))

    def validation(self, theta: Theta, distance: Distance, attack: PGD) -> Callable[[Theta], Float[Tensor, ""]]:
        def piece(part: int, x: Tensor) -> tuple[Tensor, Tensor]:
            x_adv, _ = self._attacked(x, theta, distance, attack, self.key / "validation" / part)
            with torch.no_grad():
                return self.net.features(x_adv, self._adv), self.net.features(x, self._clean)

        f_adv, f = (torch.cat(parts) for parts in zip(*self._each(self.held, piece), strict=True))
        return lambda theta: representational_divergence(
            self._headed(f_adv, self._adv, theta), self._headed(f, self._clean, theta), distance
        )

    @property
    def _clean(self) -> str:
        return self.method.routes[0]

    @property
    def _adv(self) -> str:
        return "adv" if "adv" in self.method.routes else self.method.routes[0]

    def _each(self, index: Int[Tensor, "n"], make: Callable[[int, Float[Tensor, "m C H W"]], T]) -> list[T]:
        """What is made of these images, un-augmented, a part at a time."""
        parts, images = index.split(self.at_most), self.feed.images
        return self.processes.each(len(parts), lambda k: make(k, images.floats(parts[k])))

    def _attacked(
        self, x: Float[Tensor, "n C H W"], theta: Theta, distance: Distance, attack: PGD, key: Key
    ) -> tuple[Float[Tensor, "n C H W"], Float[Tensor, "n D"]]:
        """x̃ = argmax of d(h(x̃), h(x)), and h(x). Of ot, the coupling is among these images."""
        with torch.no_grad():
            z = self._embed(x, self._clean, theta)
        rows = ROWS.get(distance, lambda z_adv, z: representational_divergence(z_adv, z, distance))
        fixed = {name: value.detach() for name, value in theta.items()}  # the input alone is differentiated
        return embedding_attack(attack, lambda x: self._embed(x, self._adv, fixed), rows, x, z, key.on(x.device)), z

    def _embed(self, x: Float[Tensor, "n C H W"], route: str, theta: Theta) -> Float[Tensor, "n D"]:
        return self._headed(self.net.features(x, route), route, theta)

    def _headed(self, f: Float[Tensor, "n D"], route: str, theta: Theta) -> Float[Tensor, "n D"]:
        """g(f; θ), float32; of a head that also classifies, its projection."""
        head = self.net.head
        routed.set_route(head, route)
        z = functional_call(head, theta, (f,))
        return head.split(z)[0] if hasattr(head, "split") else z  # pyright: ignore[reportCallIssue]

    def _loss(self, b: int) -> Float[Tensor, ""]:
        """The method's own, of one mini-batch."""
        one, method = self.candidates[b], self.method
        batch = self.feed.seen(one.index, one.strength, one.views, one.side)
        if one.attacks:
            method = replace_attacks(method, lambda attack: CachedAttack(attack, one.attacks, batch.index))  # pyright: ignore[reportArgumentType]
        return method.loss(self.net, batch, self.clock, self.key / "loss" / b)["loss"]

    def _changing(self) -> dict[str, Tensor]:
        """What a loss may change: statistics, what a method notes in the memory, a teacher that moves."""
        teacher = self.net.teacher.named_parameters("teacher") if self.net.teacher else ()
        return dict(self.net.named_buffers()) | dict(teacher)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """The network is afterwards what it was."""
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._changing().items():
                    value.copy_(self.state[name])

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


def objective_of(
    step: Step,
    feed: BatchStream,
    place: Position,
    index: Int[Tensor, "X"],
    held: Int[Tensor, "U"],
    key: Key,
    batch: int | None = None,
    steps: int | None = None,
    recalled: CachedObjective | None = None,
) -> MethodObjective:
    """The problem of an instant. Neither the network nor anything else is changed by it or by its answers.

    index, held  the candidates X and the validation images U
    batch        images in a mini-batch of candidates; None: the training's
    steps        of the candidates' attack; None: the method's own; 1 is fast and, after the first epochs, picks much
                 the same
    recalled     the epoch before, whose mini-batches are used again as they were: views, attacks and all
    """
    clock = feed.clock(place)
    method = unwrapped(step.method)
    method = method if steps is None else with_attack_steps(method, steps)
    again = [] if recalled is None else recalled.mini_batches(place)
    seen = torch.zeros(len(feed.images), dtype=torch.bool)
    for one in again:
        seen[one.index] = True
    new = drawn(index[~seen[index]], batch or feed.batch_size, feed.strength(clock), key, feed.part(place.epoch))
    net = prepared(step.net, fixed=method.teacher != "momentum")
    return MethodObjective(method, net, feed, (*again, *new), held, clock, key, max(feed.batch_size, 256), processes())


def drawn(index: Int[Tensor, "n"], size: int, strength: float, key: Key, side: float = 1.0) -> list[MiniBatch]:
    """Mini-batches of these images, by chance."""
    order = index[torch.randperm(len(index), generator=(key / "batches").on("cpu"))]
    batches = list(order.split(size)) if len(order) else []
    if len(batches) > 1 and len(batches[-1]) == 1:  # alone, an image has nothing to be contrasted with
        batches[-2:] = [torch.cat(batches[-2:])]
    return [MiniBatch(batch, key / "views" / b, strength, side) for b, batch in enumerate(batches)]


@dataclass(frozen=True, eq=False)
class CachedObjective:
    """An epoch of the training: its feed, and the attacks that were noted."""

    feed: BatchStream
    attacks: AttackCache

    def mini_batches(self, place: Position) -> list[MiniBatch]:
        """Those of the epoch that ends at a place."""
        feed, found = self.feed, []
        for b, index in enumerate(feed.batches(place.epoch - 1)):
            then = Position(place.epoch - 1, b, place.step - len(feed) + b)
            if feed.rests(then):
                how = (feed.chance(then), feed.strength(feed.clock(then)), feed.part(then.epoch))
                found.append(MiniBatch(index, *how, self.attacks))
        return found


def prepared(net: Network, fixed: bool) -> Network:
    """A copy in eval mode, of which only the head's linear layers have gradients.

    fixed  nothing moves the weights: then batch norms are folded into the convolutions
    A head that does nothing becomes the identity matrix, whose outputs are the same and which has a gradient: that of a
    linear layer put there.
    """
    width = net.encoder.features
    net = fold_batch_norms(net) if fixed else frozen_copy(net)
    if isinstance(net.head, nn.Identity):
        device = next(net.encoder.parameters()).device
        net.head = skip_init(nn.Linear, width, width, bias=False, device=device).requires_grad_(False).eval()
        nn.init.eye_(net.head.weight)  # pyright: ignore[reportArgumentType]
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
        linear.register_forward_hook(lambda _, given, y, name=name: note(name, given[0], y))  # pyright: ignore[reportArgumentType]
        for name, linear in layers.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
