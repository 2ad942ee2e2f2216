"""Signs in answers to the same images asked again: train mode, randomness, other company, another route"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from unshaken.base.types import Float
from unshaken.diagnostics.subject import CHUNK, SURPRISING, Finding, ModelUnderTest, binomial_tail, significantly_more
from unshaken.nets.dual_bn import RoutedBatchNorm, routes_of
from unshaken.nets.network import Network

ROUNDING = 1e-3
"""Of the largest logit. Sums of float32 in another order move a deep network's logits by some 1e-6 of it; a thousand
times that, which TF32 may reach, is still no cause to worry."""


def mode(patient: ModelUnderTest) -> Finding | None:
    """Dropout or batch norms in train mode, and buffers that change when the network is only asked."""
    net = patient.net
    if net is None:
        return None
    parts = [part for part in net.modules() if part.training and isinstance(part, (_BatchNorm, _DropoutNd))]
    before = [buffer.clone() for buffer in net.buffers()]
    patient.answers(patient.x[:8])
    changed = sum(not torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))
    if not parts and not changed:
        return None
    kinds = " and ".join(sorted({type(part).__name__ for part in parts})) or "none that is known to do this"
    says = f"{len(parts)} layers ({kinds}) are in train mode, and asking the network changed {changed} of its buffers."
    return Finding("mode", says, "certain", "Call net.eval() first; a layer that learns even then has to be frozen.")


def randomness(patient: ModelUnderTest) -> Finding | None:
    """Whether the same question is answered twice alike."""
    x = patient.x[:32]
    first, second = patient.answers(x), patient.answers(x)
    off = _off(first, second)
    if not off.any():
        return None
    says = f"Asked twice, the network answers {int(off.sum())} of {len(x)} images otherwise, {_apart(first, second)}."
    do = "Turn off what is random; a defence that is random on purpose needs AutoAttack's version `rand`."
    return Finding("randomness", says, "certain", do)


def batch(patient: ModelUnderTest) -> Finding | None:
    """Whether an answer depends on which images are asked about together, or on their order."""
    x = patient.x[:CHUNK]
    together = patient.answers(x)
    alone = torch.cat([patient.answers(image[None]) for image in x[:8]])
    order = torch.randperm(len(x), generator=(patient.key / "order").on("cpu")).to(x.device)
    shuffled = torch.empty_like(together)
    shuffled[order] = patient.answers(x[order])
    twice, otherwise = torch.cat([together[:8], together]), torch.cat([alone, shuffled])
    off = _off(twice, otherwise)
    if not off.any():
        return None
    says = (
        f"The network answers {int(off[:8].sum())} of {len(alone)} images otherwise when each is asked alone, and "
        f"{int(off[8:].sum())} of {len(x)} when they are asked in another order, {_apart(twice, otherwise)}."
    )
    do = "Evaluate in eval mode, with fixed statistics: now the verdict on an image depends on its company."
    return Finding("batch", says, "certain", do)


def statistics(patient: ModelUnderTest) -> Finding | None:
    """The stale batch-norm route: statistics that no image has ever moved."""
    if patient.net is None:
        return None
    pairs = [part.routes for part in patient.net.modules() if isinstance(part, RoutedBatchNorm)]
    idle = {norm for pair in pairs for route, norm in pair.items() if route != patient.route}
    norms = [part for part in patient.net.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    norms = [norm for norm in norms if norm not in idle]
    stale = sum(bool((norm.running_mean == 0).all() and (norm.running_var == 1).all()) for norm in norms)
    if 2 * stale < max(len(norms), 1):
        return None
    routes = routes_of(patient.net)
    where = f"in the route {patient.route!r}, of {', '.join(routes)}," if routes else "here"
    says = f"{stale} of {len(norms)} batch norms {where} have the mean 0 and the variance 1 that they were made with."
    do = "Take the route that was trained" if routes else "Take the batch norms of the branch that was trained"
    return Finding("routes", says, "certain", f"{do}, or let training images pass through this one in train mode.")


def routes(patient: ModelUnderTest) -> Finding | None:
    """The stale batch-norm route: untouched statistics, or less than half of another route's right answers."""
    found = statistics(patient)
    if found or not isinstance(patient.net, Network):
        return found
    for route in routes_of(patient.net):
        other = patient.over(route).right
        both, n = int((patient.right & other).sum()), int(other.sum())
        better = significantly_more(n - both, int((patient.right & ~other).sum()))
        if better and binomial_tail(n - both, n, 0.5) < SURPRISING:
            says = f"Of {n} images that the route {route!r} classifies rightly, {patient.route!r} does {both}."
            return Finding("routes", says, "likely", f"Was {patient.route!r} trained last? If not, evaluate {route!r}.")
    return None


def _off(a: Float[Tensor, "n K"], b: Float[Tensor, "n K"]) -> Tensor:
    """Which answers (n) are not the same but for rounding."""
    largest = max(float(each.abs().masked_fill(each.isinf(), 0).max()) for each in (a, b))
    return ~((a - b).abs().masked_fill(a == b, 0).amax(1) <= ROUNDING * largest)


def _apart(a: Float[Tensor, "n K"], b: Float[Tensor, "n K"]) -> str:
    return f"by up to {float((a - b).abs().max()):.2g} in logits of up to {float(a.abs().max()):.2g}"
