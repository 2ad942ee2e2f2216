"""Checks that ask again: train mode, randomness, dependence on the batch, another route."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from unshaken.base.types import Float
from unshaken.diagnostics.subject import CHUNK, SURPRISING, Finding, ModelUnderTest, binomial_tail, is_better
from unshaken.nets.dual_bn import RoutedBatchNorm, routes_of
from unshaken.nets.network import Network

ROUNDING = 1e-3
"""Logits count as equal within this fraction of the largest logit. Sums in float32 in another order change a deep
network's logits by about 1e-6 of it; TF32 may change them by a thousand times that, which is still harmless."""


def mode(model: ModelUnderTest) -> Finding | None:
    """Report dropout or batch norms in train mode, and buffers that a forward pass changes."""
    net = model.net
    if net is None:
        return None
    layers = [layer for layer in net.modules() if layer.training and isinstance(layer, (_BatchNorm, _DropoutNd))]
    before = [buffer.clone() for buffer in net.buffers()]
    model.answers(model.x[:8])
    changed = sum(not torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    if not layers and not changed:
        return None
    kinds = " and ".join(sorted({type(layer).__name__ for layer in layers})) or "none of a known kind"
    says = f"{len(layers)} layers ({kinds}) are in train mode, and a forward pass changed {changed} of the buffers."
    return Finding("mode", says, "certain", "Call net.eval() first; a layer that learns even then has to be frozen.")


def randomness(model: ModelUnderTest) -> Finding | None:
    """Report if two forward passes of the same images give different answers."""
    x = model.x[:32]
    first, second = model.answers(x), model.answers(x)
    off = _off(first, second)
    if not off.any():
        return None
    says = f"Two forward passes differ for {int(off.sum())} of {len(x)} images, {_apart(first, second)}."
    do = "Turn off what is random; a defence that is random on purpose needs AutoAttack's version `rand`."
    return Finding("randomness", says, "certain", do)


def batch(model: ModelUnderTest) -> Finding | None:
    """Report if an answer depends on the other images in the batch, or on their order."""
    x = model.x[:CHUNK]
    together = model.answers(x)
    alone = torch.cat([model.answers(image[None]) for image in x[:8]])
    order = torch.randperm(len(x), generator=(model.key / "order").on("cpu")).to(x.device)
    shuffled = torch.empty_like(together)
    shuffled[order] = model.answers(x[order])
    twice, otherwise = torch.cat([together[:8], together]), torch.cat([alone, shuffled])
    off = _off(twice, otherwise)
    if not off.any():
        return None
    says = (
        f"The answers differ for {int(off[:8].sum())} of {len(alone)} images when each is alone in its batch, and for "
        f"{int(off[8:].sum())} of {len(x)} when they are in another order, {_apart(twice, otherwise)}."
    )
    do = "Evaluate in eval mode, with fixed statistics: now the verdict on an image depends on the others in its batch."
    return Finding("batch", says, "certain", do)


def statistics(model: ModelUnderTest) -> Finding | None:
    """Report batch norms whose statistics were never updated: a route that was not trained."""
    if model.net is None:
        return None
    pairs = [layer.routes for layer in model.net.modules() if isinstance(layer, RoutedBatchNorm)]
    idle = {norm for pair in pairs for route, norm in pair.items() if route != model.route}
    norms = [norm for norm in model.net.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    norms = [norm for norm in norms if norm not in idle]
    stale = sum(bool((norm.running_mean == 0).all() and (norm.running_var == 1).all()) for norm in norms)
    if 2 * stale < max(len(norms), 1):
        return None
    routes = routes_of(model.net)
    where = f"in the route {model.route!r}, of {', '.join(routes)}," if routes else "here"
    says = f"{stale} of {len(norms)} batch norms {where} have the mean 0 and the variance 1 that they were made with."
    do = "Take the route that was trained" if routes else "Take the batch norms of the branch that was trained"
    return Finding("routes", says, "certain", f"{do}, or let training images pass through this one in train mode.")


def routes(model: ModelUnderTest) -> Finding | None:
    """Report a stale batch-norm route: statistics never updated, or many fewer correct answers than another."""
    found = statistics(model)
    if found or not isinstance(model.net, Network):
        return found
    for route in routes_of(model.net):
        other = model.through_route(route).is_correct
        both, n = int((model.is_correct & other).sum()), int(other.sum())
        better = is_better(n - both, int((model.is_correct & ~other).sum()))
        if better and binomial_tail(n - both, n, 0.5) < SURPRISING:
            says = f"Of {n} images that the route {route!r} classifies correctly, {model.route!r} does {both}."
            return Finding("routes", says, "likely", f"Was {model.route!r} trained last? If not, evaluate {route!r}.")
    return None


def _off(a: Float[Tensor, "n K"], b: Float[Tensor, "n K"]) -> Tensor:
    """Return which answers (n) differ by more than rounding."""
    largest = max(float(each.abs().masked_fill(each.isinf(), 0).max()) for each in (a, b))
    return ~((a - b).abs().masked_fill(a == b, 0).amax(1) <= ROUNDING * largest)


def _apart(a: Float[Tensor, "n K"], b: Float[Tensor, "n K"]) -> str:
    return f"by up to {float((a - b).abs().max()):.2g} in logits of up to {float(a.abs().max()):.2g}"
