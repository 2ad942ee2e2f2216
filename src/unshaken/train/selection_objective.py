"""A method's loss as the objective of a coreset selector: head gradients and attack distances."""

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
from unshaken.train.attack_cache import AttackCache
from unshaken.train.attack_policy import AttackPolicy, with_attack_steps
from unshaken.train.batches import BatchStream, Position
from unshaken.train.input_gradients import input_gradient_norms
from unshaken.train.layer_gradients import image_factors, linear_layers

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """A mini-batch of candidates.

    views, strength  the key and the strength of the augmentation
    side             the side of the views, as a fraction of the images' side
    attacks          the attacks that the training has cached for these views; None: attack again
    """

    index: Int[Tensor, "b"]
    views: Key
    strength: float
    side: float = 1.0
    attacks: AttackCache | None = None


@dataclass(frozen=True, eq=False)
class MethodObjective(SelectionObjective):
    """The method's own loss at `clock`, its attack included, as an objective. Made by `objective_of`.

    net      a copy of the network in eval mode, in which only the head's linear layers have gradients
    feed     the batches of the training that follows
    at_most  the number of images that go through the network at a time in features, distances and validation
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
            by_layer = self._image_factors(batches[k])
            return {n: one if granularity == "sample" else sum_samples(one, most) for n, one in by_layer.items()}

        found = self.processes.each(len(batches), piece)
        index = torch.cat([self.batches[b] for b in batches])
        sizes = (1,) * len(index) if granularity == "sample" else tuple(len(self.batches[b]) for b in batches)
        biased = frozenset(name for name, linear in layers.items() if linear.bias is not None)
        # `pop`, so that only one layer at a time is in memory twice
        return Gradients(
            index, sizes, {name: concatenate([batch.pop(name) for batch in found]) for name in layers}, biased
        )

    def losses(self) -> Float[Tensor, "B"]:
        def piece(b: int) -> Tensor:
            with self._restoring(), torch.no_grad():
                return self._loss(b)

        return torch.stack(self.processes.each(len(self.batches), piece))

    def input_gradients(self) -> Float[Tensor, "N"]:
        def piece(b: int) -> Tensor:
            images = len(self.batches[b])
            with self._restoring():  # the loss is a mean over the mini-batch
                return images * input_gradient_norms(self.net, lambda: self._loss(b), images)

        return torch.cat(self.processes.each(len(self.batches), piece))

    @torch.no_grad()
    def features(self) -> Float[Tensor, "N D"]:
        return torch.cat(self._map_chunks(self.index, lambda k, x: self.net.features(x, self._clean)))

    def distances(self, distance: Distance, attack: PGD) -> Float[Tensor, "N"]:
        if distance not in ROWS:
            raise ValueError(f"there is no distance {distance!r} per image; choose one of {', '.join(ROWS)}")

        def piece(k: int, x: Tensor) -> Tensor:
            x_adv, z = self._attack(x, self.theta, distance, attack, self.key / "distance" / k)
            return ROWS[distance](self._embed(x_adv, self._adv, self.theta).detach(), z)

        return torch.cat(self._map_chunks(self.index, piece))

    def validation(self, theta: Theta, distance: Distance, attack: PGD) -> Callable[[Theta], Float[Tensor, ""]]:
        def piece(k: int, x: Tensor) -> tuple[Tensor, Tensor]:
            x_adv, _ = self._attack(x, theta, distance, attack, self.key / "validation" / k)
            with torch.no_grad():
                return self.net.features(x_adv, self._adv), self.net.features(x, self._clean)

        f_adv, f = (torch.cat(chunks) for chunks in zip(*self._map_chunks(self.held, piece), strict=True))
        return lambda theta: representational_divergence(
            self._project(f_adv, self._adv, theta), self._project(f, self._clean, theta), distance
        )

    @property
    def _clean(self) -> str:
        return self.method.routes[0]

    @property
    def _adv(self) -> str:
        return "adv" if "adv" in self.method.routes else self.method.routes[0]

    def _map_chunks(self, index: Int[Tensor, "n"], make: Callable[[int, Float[Tensor, "m C H W"]], T]) -> list[T]:
        """Apply a function to each chunk of these images, without augmentation."""
        chunks, images = index.split(self.at_most), self.feed.images
        return self.processes.each(len(chunks), lambda k: make(k, images.floats(chunks[k])))

    def _attack(
        self, x: Float[Tensor, "n C H W"], theta: Theta, distance: Distance, attack: PGD, key: Key
    ) -> tuple[Float[Tensor, "n C H W"], Float[Tensor, "n D"]]:
        """Return x̃ = argmax of d(h(x̃), h(x)), and h(x). Optimal transport (ot) couples these images only."""
        with torch.no_grad():
            z = self._embed(x, self._clean, theta)
        rows = ROWS.get(distance, lambda z_adv, z: representational_divergence(z_adv, z, distance))
        fixed = {name: value.detach() for name, value in theta.items()}  # the attack needs the input's gradient only
        return embedding_attack(attack, lambda x: self._embed(x, self._adv, fixed), rows, x, z, key.on(x.device)), z

    def _embed(self, x: Float[Tensor, "n C H W"], route: str, theta: Theta) -> Float[Tensor, "n D"]:
        return self._project(self.net.features(x, route), route, theta)

    def _project(self, f: Float[Tensor, "n F"], route: str, theta: Theta) -> Float[Tensor, "n D"]:
        """Return g(f; θ) in float32; for a head with classifiers, its projection."""
        head = self.net.head
        routed.set_route(head, route)
        z = functional_call(head, theta, (f,))
        return head.split(z)[0] if hasattr(head, "split") else z  # pyright: ignore[reportCallIssue]

    def _loss(self, b: int) -> Float[Tensor, ""]:
        """Return the method's loss on one mini-batch."""
        one, method = self.candidates[b], self.method
        batch = self.feed.make_batch(one.index, one.strength, one.views, one.side)
        if one.attacks:
            method = AttackPolicy(reuse=one.attacks)(method, batch, self.clock)
        return method.loss(self.net, batch, self.clock, self.key / "loss" / b)["loss"]

    def _changing(self) -> dict[str, Tensor]:
        """Return the tensors that computing a loss may change: statistics, the method's memory, a moving teacher."""
        teacher = self.net.teacher.named_parameters("teacher") if self.net.teacher else ()
        return dict(self.net.named_buffers()) | dict(teacher)

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """Restore the tensors that computing a loss may change."""
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._changing().items():
                    value.copy_(self.state[name])

    def _image_factors(self, b: int) -> dict[str, Factors]:
        with self._restoring():
            return image_factors(linear_layers(self.net.head), lambda: self._head_loss(b), len(self.batches[b]))

    def _head_loss(self, b: int) -> Tensor:
        """Return the loss of a mini-batch. ValueError if it does not depend on the head."""
        loss = self._loss(b)
        if not loss.requires_grad:
            raise ValueError(
                f"the loss of {type(self.method).__name__} does not depend on the head, whose gradients this selector "
                "needs: take another one, such as --coreset Random"
            )
        return loss


def objective_of(
    step: Step,
    feed: BatchStream,
    position: Position,
    index: Int[Tensor, "X"],
    held: Int[Tensor, "U"],
    key: Key,
    batch: int | None = None,
    steps: int | None = None,
    cached: CachedObjective | None = None,
) -> MethodObjective:
    """Make the objective at a position of the training. It changes neither the network nor anything else.

    index, held  the candidates X and the validation images U
    batch        the size of the candidates' mini-batches; None: the training's
    steps        the number of attack steps on candidates; None: the method's own. 1 is fast and, after the first
                 epochs, selects nearly the same images
    cached       the epoch before, whose mini-batches are reused with their views and attacks
    """
    clock = feed.clock(position)
    method = step.method if steps is None else with_attack_steps(step.method, steps)
    reused = [] if cached is None else cached.mini_batches(position)
    has_batch = torch.zeros(len(feed.images), dtype=torch.bool)
    for one in reused:
        has_batch[one.index] = True
    how = (feed.strength(clock), key, feed.side_fraction(position.epoch))
    new = draw_mini_batches(index[~has_batch[index]], batch or feed.batch_size, *how)
    net = selection_copy(step.net, fixed=method.teacher != "momentum")
    return MethodObjective(method, net, feed, (*reused, *new), held, clock, key, max(feed.batch_size, 256), processes())


def draw_mini_batches(
    index: Int[Tensor, "n"], size: int, strength: float, key: Key, side: float = 1.0
) -> list[MiniBatch]:
    """Split these images into random mini-batches."""
    order = index[torch.randperm(len(index), generator=(key / "batches").on("cpu"))]
    batches = list(order.split(size)) if len(order) else []
    if len(batches) > 1 and len(batches[-1]) == 1:  # a contrastive loss needs at least two images
        batches[-2:] = [torch.cat(batches[-2:])]
    return [MiniBatch(batch, key / "views" / b, strength, side) for b, batch in enumerate(batches)]


@dataclass(frozen=True, eq=False)
class CachedObjective:
    """The batches of an epoch of the training, and its cached attacks."""

    feed: BatchStream
    attacks: AttackCache

    def mini_batches(self, position: Position) -> list[MiniBatch]:
        """Return the mini-batches of the epoch that ends at a position."""
        feed, found = self.feed, []
        for b, index in enumerate(feed.batches(position.epoch - 1)):
            then = Position(position.epoch - 1, b, position.step - len(feed) + b)
            if feed.has_own_views(then):
                how = (feed.views_key(then), feed.strength(feed.clock(then)), feed.side_fraction(then.epoch))
                found.append(MiniBatch(index, *how, self.attacks))
        return found


def selection_copy(net: Network, fixed: bool) -> Network:
    """Return a copy in eval mode in which only the head's linear layers have gradients.

    fixed  the method does not change the weights, so batch norms can be folded into convolutions
    A network without a head gets an identity matrix as a linear head, whose gradient then stands for it.
    """
    width = net.encoder.features
    net = fold_batch_norms(net) if fixed else frozen_copy(net)
    if isinstance(net.head, nn.Identity):
        device = next(net.encoder.parameters()).device
        net.head = skip_init(nn.Linear, width, width, bias=False, device=device).requires_grad_(False).eval()
        nn.init.eye_(net.head.weight)  # pyright: ignore[reportArgumentType]
    layers = linear_layers(net.head)
    if not layers:
        raise ValueError("the selection needs gradients of linear layers in the head, but this head has none")
    for linear in layers.values():
        linear.requires_grad_()
    return net
