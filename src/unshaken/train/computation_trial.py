"""The computation of a training, chosen by a trial on its own network, image size, batch and processor."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unshaken.base.distributed import processes
from unshaken.base.native_code import Unavailable
from unshaken.base.rng import Key
from unshaken.compute.depthwise_conv import has_depthwise_convs
from unshaken.compute.matmul_conv import may_be_product
from unshaken.compute.runtime import Runtime
from unshaken.compute.trials import GAIN, SECONDS, Cost, Found, compare, fastest
from unshaken.compute.ways import FIXED, PRODUCTS, VIEWS, WINOGRAD, Way
from unshaken.compute.winograd_conv import CODE as CONVOLUTIONS
from unshaken.compute.winograd_conv import may_be_winograd
from unshaken.methods.base import Method
from unshaken.nets.network import Network, frozen
from unshaken.train.attack_policy import most_steps
from unshaken.transforms.fused_views import CODE as VIEWS_CODE
from unshaken.transforms.fused_views import use_fused_views
from unshaken.transforms.views import SimCLRViews

LONG = 2e7
"""Pixels of one channel that a training reads, all epochs together, from which on it is long enough for a trial: 20,000
images of 32 pixels, or 300,000 digits of 8. Shorter ones take the fixed ways."""
WORTH_COMPILING = 300.0
"""Seconds that a run is expected to take from which on code is compiled for it, which takes a second or two."""
IMAGES, VIEWS_SECONDS = 64, 0.2
"""Images of which views are timed, and the seconds for that."""

Change = tuple[str, Callable[[Runtime], Runtime]]
"""The part of a step by which a change is judged, and the change."""


@dataclass(frozen=True)
class Training:
    """The work of a training, as far as its time depends on it.

    net     a network of its kind, whose weights do not matter
    method  trains it
    passes  images that go through the training, all epochs together
    batch   images of a batch
    shape   channels, height and width of an image
    views   the augmentation, if it is to be tried too
    """

    net: Network
    method: Method
    passes: float
    batch: int
    shape: tuple[int, int, int]
    views: Any = None

    @property
    def is_long(self) -> bool:
        return self.passes * self.shape[1] * self.shape[2] >= LONG


def fixed_computation(runtime: Runtime, net: nn.Module | None = None) -> Runtime:
    """Return the runtime with the fixed ways in place of auto; bf16 is then not taken for depthwise convolutions."""
    slow = runtime.by_trial and net is not None and has_depthwise_convs(net)
    return replace(runtime, precision="float32" if slow else runtime.precision, computation=runtime.ways or ("plain",))


def chosen_computation(
    training: Training,
    runtime: Runtime,
    limit: float = SECONDS,
    clock: Callable[[], float] | None = None,
) -> tuple[Runtime, str]:
    """Return the runtime with the fastest computation for a training, and a line about it; "" without a trial.

    limit  seconds by the clock
    clock  None: processor seconds with one thread, so that other programs neither change the choice nor use up its
           time; else seconds

    Only what the runtime leaves open is tried. Short trainings and GPUs take the fixed ways.
    """
    first = fixed_computation(runtime, training.net)
    if runtime.settled or runtime.kind != "cpu" or not training.is_long:
        return first, ""
    runtime.set_up_process()
    clock = clock or (time.process_time if torch.get_num_threads() == 1 else time.perf_counter)
    changes = _changes(runtime, first, training)
    most = max(1, training.batch // processes().count) * training.method.views
    passes = most_steps(training.method) + len(training.method.routes)  # each about as long as an update
    repeats = training.passes * training.method.views * passes
    missing: list[str] = []
    ready = partial(_compile_convolutions, changes, missing)
    # compiled convolutions are worth more than any other change, and need some images to show it
    patient = limit >= SECONDS and any(change is _winograd for _, change in changes)
    found = fastest(first, changes, partial(cost_of, training, clock), most, repeats, limit, clock, ready, patient)
    best, said = _views(training, found, clock) if runtime.computation == ("auto",) else (found.best, "")
    return best, "".join([described(found, first), *missing, said])


def described(found: Found[Runtime], first: Runtime) -> str:
    """Describe the result of a trial on one line."""
    best = found.best
    words = " ".join(best.computation)
    tried, wanted = found.tried
    part = "" if tried == wanted else f" ({tried} of {wanted} comparisons, because these take long)"
    gain = "as fast as any other" if best == first else f"{found.faster:.2f} times as fast as the usual ways"
    return (
        f"computation: {best.precision}, {words}: {gain}, by a trial of {found.seconds:.1f} s on {found.images} images"
        f"{part}; --runtime.precision and --runtime.computation set it"
    )


def _compile_convolutions(changes: Sequence[Change], missing: list[str], expected: float) -> None:
    """Load the compiled convolutions if they are among the changes, or say why not in `missing`."""
    if any(change is _winograd for _, change in changes):
        try:
            CONVOLUTIONS.load(build=expected >= WORTH_COMPILING)
        except Unavailable as reason:
            missing.append(f"; convolutions by PyTorch, because no compiled code is at hand: {reason}")


def _views(training: Training, found: Found[Runtime], clock: Callable[[], float]) -> tuple[Runtime, str]:
    """Return the computation with compiled views, if these are possible and faster, and words about that.

    Compiling takes seconds, so only a run of five minutes or more does it; others use what is compiled already.
    """
    views = training.views
    if not isinstance(views, SimCLRViews) or training.shape[0] != 3:
        return found.best, ""
    try:
        VIEWS_CODE.load(build=found.expected >= WORTH_COMPILING)
    except Unavailable as reason:
        return found.best, f"; views by PyTorch's operations, because no compiled code is at hand: {reason}"
    image = torch.rand((IMAGES, *training.shape), generator=Key("trial").on("cpu"))

    def cost(fused: bool) -> Cost:
        def work(part: str, images: int) -> float:
            use_fused_views(fused)
            began = clock()
            views(image, 1.0, Key("trial"))
            return clock() - began

        return work

    try:
        for fused in (True, False):  # a first call of each, which is not counted
            cost(fused)("views", IMAGES)
        ours, plain = compare("views", cost(True), cost(False), IMAGES, clock() + VIEWS_SECONDS, clock)
    finally:
        use_fused_views(False)
    if ours >= (1 - GAIN) * plain:
        return found.best, "; views by PyTorch's operations, which are as fast as compiled code"
    return _with(found.best, [*found.best.ways, VIEWS]), f"; views by compiled code, {plain / ours:.1f} times as fast"


def _changes(runtime: Runtime, first: Runtime, training: Training) -> list[Change]:
    """Return the changes that are open and can make a difference for a network, each with what it is judged by."""
    changes: list[Change] = []
    if runtime.by_trial:
        other = "float32" if first.precision == "bf16" else "bf16"
        changes.append(("update", lambda now: replace(now, precision=other)))
    convs = [module for module in training.net.modules() if isinstance(module, nn.Conv2d)]
    if runtime.computation != ("auto",) or not convs:
        return changes
    if any(map(may_be_winograd, convs)):
        changes.insert(0, ("update", _winograd))  # it may save most, and there may be no time for all of them
    if has_depthwise_convs(training.net):
        changes.append(("update", _toggle("depthwise")))
    if any(map(may_be_product, convs)):
        changes += [("update", _product(None)), ("update", _product("matmul-64"))]
    if most_steps(training.method):
        changes.append(("attack", _toggle("folding")))
    return [*changes, ("update", _toggle("channels-last"))]


def _winograd(now: Runtime) -> Runtime:
    """Compute with the compiled convolutions, if they are at hand."""
    return _with(now, [*now.ways, WINOGRAD]) if CONVOLUTIONS.loaded else now


def _toggle(way: Way) -> Callable[[Runtime], Runtime]:
    return lambda now: _with(now, [each for each in now.ways if each != way] + [way] * (way not in now.ways))


def _product(way: Way | None) -> Callable[[Runtime], Runtime]:
    return lambda now: _with(now, [each for each in now.ways if each not in PRODUCTS] + [way] * (way is not None))


def _with(runtime: Runtime, ways: list[Any]) -> Runtime:
    order = [*FIXED, *PRODUCTS, WINOGRAD, VIEWS]
    return replace(runtime, computation=tuple(sorted(ways, key=order.index)) or ("plain",))


def cost_of(training: Training, clock: Callable[[], float], runtime: Runtime) -> Cost:
    """Return a function from a part of a step, and a number of images, to its seconds.

    update  the gradients of the weights, from one forward and backward pass
    attack  folding the batch norms once, and an attack's gradients of the images
    """
    net, steps, routes = copy.deepcopy(training.net).train(), most_steps(training.method), training.method.routes
    for name in training.method.frozen:
        net.get_submodule(name).requires_grad_(False).eval()
    runtime.prepare(net)
    noise = torch.rand((1, *training.shape), generator=Key("trial").on("cpu"))

    def seconds(work: Callable[[], object]) -> float:
        began = clock()
        work()
        return clock() - began

    def cost(part: str, images: int) -> float:
        x = noise.expand(images, -1, -1, -1).contiguous()
        if part == "update":
            taken = seconds(lambda: net(x, routes[-1]).square().sum().backward())
            for p in net.parameters():
                p.grad = None
            return taken
        with frozen(net):
            fold = seconds(lambda: net.computation.encoder(net.encoder, routes[-1]))
            return fold + steps * seconds(lambda: _gradient(net, x.requires_grad_(), routes[-1]))

    return cost


def _gradient(net: Network, x: Tensor, route: str) -> None:
    torch.autograd.grad(net(x, route).square().sum(), x)
