"""Signs that need no attack: pixels, logits, mode, randomness, batch, routes, ε, accuracy, normalisation, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from unshaken.base.types import Float
from unshaken.evaluate.patient import CHUNK, SURPRISING, Finding, Patient, at_least, many, more
from unshaken.nets.backbone import IMAGENET_MEAN, IMAGENET_STD
from unshaken.nets.embed import Network, Normalize
from unshaken.nets.routed import Routed, routes_of
from unshaken.threat.ball import Linf
from unshaken.threat.pgd import input_gradient

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations, one a channel."""
ROUNDING = 1e-3
"""Of the largest logit. Sums of float32 in another order move a deep network's logits by some 1e-6 of it; a thousand
times that, which TF32 may reach, is still no cause to worry."""


def pixels(patient: Patient) -> Finding | None:
    """Images outside [0, 1], by more than rounding; on the 0..255 scale; or divided by 255 twice."""
    x = patient.x
    low, high = float(x.min()), float(x.max())
    seen = f"The pixels lie in [{low:.4g}, {high:.4g}]"
    if not x.isfinite().all():
        return Finding("pixels", "Some pixels are no finite numbers.", "certain", "Look at how the images are read.")
    if high > 1.5 and low >= 0:
        says = f"{seen}, on the scale of 0 to 255, and an attack clips them to [0, 1]."
        return Finding("pixels", says, "certain", "Divide the pixels by 255 before they reach the network.")
    if low < -1e-6 or high > 1 + 1e-6:
        says = f"{seen} and not in [0, 1], to which an attack clips them: they seem to be normalised already."
        do = "Hand over pixels in [0, 1], and normalise within the network, as its first layer."
        return Finding("pixels", says, "certain", do)
    if high <= 2 / 255:
        says = f"{seen}, as if they had been divided by 255 twice."
        return Finding("pixels", says, "likely", "Divide the pixels by 255 once.")
    return None


def logits(patient: Patient) -> Finding | None:
    """Other than finite logits, one for each class and image: probabilities, say."""
    z, n = patient.clean, len(patient.x)
    shape = "x".join(map(str, z.shape))
    if z.ndim != 2 or len(z) != n or z.shape[1] <= int(patient.y.max()):
        says = f"For {n} images with labels up to {int(patient.y.max())} the outputs have the shape {shape}."
        return Finding(
            "logits", says, "certain", "Let the network return one logit for each class, two for two classes."
        )
    masked = z == -torch.inf  # which is usual for a class that no image has
    masked[:, patient.y.unique()] = False
    if broken := int((~z.isfinite() & ~masked).any(1).sum()):
        says = f"The outputs for {broken} of {n} images are not all finite numbers."
        return Finding("logits", says, "certain", "Find where the network overflows; float16 layers often do.")
    if z.min() < 0 or z.max() > 1 or z.min() == z.max():
        return None
    do = "Return what goes into the {}, not what comes out of it: behind it the gradients of attacks vanish."
    if (z.sum(1) - 1).abs().max() < 1e-3:
        says = f"The outputs for all {n} images lie in [0, 1] and sum to 1: they are probabilities, not logits."
        return Finding("logits", says, "certain", do.format("softmax"))
    if z.min() < 0.01 and z.max() > 0.99:
        says = f"All outputs lie in [0, 1], from {float(z.min()):.3g} to {float(z.max()):.3g}, as a sigmoid's do."
        return Finding("logits", says, "likely", do.format("sigmoid"))
    return None


def mode(patient: Patient) -> Finding | None:
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


def randomness(patient: Patient) -> Finding | None:
    """Whether the same question is answered twice alike."""
    x = patient.x[:32]
    first, second = patient.answers(x), patient.answers(x)
    off = _off(first, second)
    if not off.any():
        return None
    says = f"Asked twice, the network answers {int(off.sum())} of {len(x)} images otherwise, {_apart(first, second)}."
    do = "Turn off what is random; a defence that is random on purpose needs AutoAttack's version `rand`."
    return Finding("randomness", says, "certain", do)


def batch(patient: Patient) -> Finding | None:
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


def eps(patient: Patient) -> Finding | None:
    """A ball that rounding undoes, one in which classes meet, and an ε that was divided by a standard deviation."""
    ball, x = patient.ball, patient.x
    linf = isinstance(ball, Linf)
    level = ball.eps * 255  # in l2 too a single pixel may take all of it
    named = f"ε = {ball.eps:.4g} ({'l∞' if linf else 'l2'})"
    if level < (0.5 if linf else 1):
        says = f"{named} is {level:.2g} of 255 grey levels a pixel, which rounding to 8 bits undoes."
        do = (
            f"ε is in units of a pixel in [0, 1]: was it divided by 255 once too often, and {255 * ball.eps:.3g} meant?"
        )
        return Finding("eps", says, "likely", do)
    near = _nearest_of_others(patient)
    meet, n = int((near <= 2 * ball.eps).sum()), len(x)
    if many(meet, n, share=0.05):
        says = (
            f"Within 2ε of {meet} of {n} images lies one of another class, so that no classifier can hold at "
            f"{named} on both."
        )
        do = "ε is in units of a pixel in [0, 1], such as 8/255: is it one of 0 to 255, or of a normalised image?"
        return Finding("eps", says, "certain", do)
    return _divided(ball.eps, named, patient) if linf else None


def _nearest_of_others(patient: Patient) -> Float[Tensor, "N"]:
    """How far the next image of another class is; infinite if there is none. One that is equal has a wrong label."""
    x, y = patient.x.flatten(1), patient.y
    p = torch.inf if isinstance(patient.ball, Linf) else 2
    apart = torch.cdist(x, x, p=p, compute_mode="donot_use_mm_for_euclid_dist")  # so that equal images are 0 apart
    return apart.masked_fill((y[:, None] == y) | (apart == 0), torch.inf).amin(1)


def _divided(eps: float, named: str, patient: Patient) -> Finding | None:
    """ε/std is rarely a round number, as 8/255 or 0.1 is, and ε is again if it is multiplied by std."""
    levels, thousandths = 255 * eps, 1000 * eps
    if abs(levels - round(levels)) < 1e-3 or abs(thousandths - round(thousandths)) < 1e-3:
        return None
    for std in sorted({s for _, stds in _usual(patient) for s in (*stds, sum(stds) / len(stds))}):
        meant = levels * std
        if meant > 0.9 and abs(meant - round(meant)) < 5e-4 * meant:
            says = f"{named} is {round(meant)}/255 divided by a standard deviation of {std:.4g}."
            return Finding("eps", says, "likely", f"Give ε in units of a pixel in [0, 1]: {round(meant)}/255.")
    return None


def accuracy(patient: Patient) -> Finding | None:
    """Whether answers have to do with labels at all: agreement against that of answers and labels that do not."""
    z, y, n = patient.clean, patient.y, len(patient.y)
    counts = [torch.bincount(each.cpu(), minlength=z.shape[1]).double() for each in (z.argmax(1), y)]
    guessing = float((counts[0] * counts[1]).sum()) / n**2
    right = int(patient.right.sum())
    if at_least(n, n, guessing) > SURPRISING or at_least(right, n, guessing) <= 0.01:
        return None  # nothing can be told from so few images of one class; or the network knows something
    says = (
        f"{right} of {n} images are classified rightly, and guessing would give {guessing * n:.0f}; always naming the "
        f"most frequent class is right on {int(counts[1].max())}."
    )
    do = "Look whether the classes are in the order of the labels, the images those it was trained for, and it trained."
    return Finding("accuracy", says, "likely", do)


def normalisation(patient: Patient) -> Finding | None:
    """Whether the network is better at images that are normalised once more, or once less."""
    tried = list(_otherwise(patient))
    found = []
    for what, do, x in tried:
        now = patient.correct(x)
        found.append((int((now & ~patient.right).sum()), int((patient.right & ~now).sum()), what, do))
    gained, lost, what, do = max(found, key=lambda each: each[0] - each[1])
    if not more(gained, lost, len(tried)):
        return None
    right, n = int(patient.right.sum()), len(patient.x)
    says = f"Of {n} images {right} are classified rightly, but {right + gained - lost} of them when {what}."
    return Finding("normalisation", says, "likely", do)


def _otherwise(patient: Patient) -> Iterator[tuple[str, str, Tensor]]:
    """What else might be done to images, what it would mean, and the images."""
    missing = "The network seems to be trained on normalised pixels: give it that normalisation as its first layer."
    double = "The pixels seem to be normalised twice: once within the network is right."
    for mean, std in _normalisations(patient):
        m, s = (patient.x.new_tensor(v).view(-1, 1, 1) for v in (mean, std))
        named = f"mean {_listed(mean)}, std {_listed(std)}"
        yield f"they are normalised once more ({named})", missing, (patient.x - m) / s
        yield f"a normalisation ({named}) is undone before", double, patient.x * s + m
    scale = "The network seems to be trained on pixels of 0 to 255: multiply by 255 within it, as its first layer."
    yield "their pixels are multiplied by 255", scale, 255 * patient.x


def _usual(patient: Patient) -> list[Normalisation]:
    """The network's own, and ImageNet's."""
    channels = patient.x.shape[1]
    inside = [part for part in patient.net.modules() if isinstance(part, Normalize)] if patient.net else []
    own = [tuple(tuple(v.flatten().tolist()) for v in (part.mean, part.std)) for part in inside]
    known = [*own, (IMAGENET_MEAN, IMAGENET_STD)]
    return [(mean, std) for mean, std in known if len(mean) == channels and min(std) > 0]


def _normalisations(patient: Patient) -> list[Normalisation]:
    """The usual ones, ½, and these images'; each that has an effect of its own."""
    half = (0.5,) * patient.x.shape[1]
    theirs = (tuple(patient.x.mean((0, 2, 3)).tolist()), tuple(patient.x.std((0, 2, 3)).tolist()))
    found = [((0.0,) * len(half), (1.0,) * len(half))]
    for mean, std in [*_usual(patient), (half, half), theirs]:
        near = [max(abs(a - b) for a, b in zip(mean + std, m + s, strict=True)) < 0.06 for m, s in found]
        if min(std) > 0 and not any(near):
            found.append((mean, std))
    return found[1:]


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def statistics(patient: Patient) -> Finding | None:
    """The stale batch-norm route: statistics that no image has ever moved."""
    if patient.net is None:
        return None
    pairs = [part.routes for part in patient.net.modules() if isinstance(part, Routed)]
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


def routes(patient: Patient) -> Finding | None:
    """The stale batch-norm route: untouched statistics, or less than half of another route's right answers."""
    found = statistics(patient)
    if found or not isinstance(patient.net, Network):
        return found
    for route in routes_of(patient.net):
        other = patient.over(route).right
        both, n = int((patient.right & other).sum()), int(other.sum())
        better = more(n - both, int((patient.right & ~other).sum()))
        if better and at_least(n - both, n, 0.5) < SURPRISING:
            says = f"Of {n} images that the route {route!r} classifies rightly, {patient.route!r} does {both}."
            return Finding("routes", says, "likely", f"Was {patient.route!r} trained last? If not, evaluate {route!r}.")
    return None


def gradient(patient: Patient) -> Finding | None:
    """Cross-entropy's gradient, at images classified rightly and near them: not finite, exactly zero, or mere rounding.

    Where the label's probability rounds to 1 its logit is not pulled down any more: the gradient by the logits in
    float32 is then about as far from the true one, Σ_{k≠y} p_k (e_k − e_y), as that is long.
    """
    few = patient.chosen(patient.right)
    n = len(few.x)
    if not n:
        return None
    near = few.ball.sample(few.x, (few.key / "gradient").on(few.x.device))
    at, beside = _slopes(few, few.x), _slopes(few, near)
    wild, flat, rounded = (at.wild | beside.wild), (at.flat & beside.flat), (at.rounded & beside.rounded)
    return _vanished(int(wild.sum()), int(flat.sum()), int(rounded.sum()), n)


def _vanished(wild: int, flat: int, rounded: int, n: int) -> Finding | None:
    whose = f"of {n} images that are classified rightly"
    if many(wild, n):
        says = f"The gradient of cross-entropy by the pixels is not finite for {wild} {whose}."
        return Finding("gradient", says, "certain", "Find where the network's backward pass overflows or divides by 0.")
    if many(flat, n):
        says = (
            f"The gradient of cross-entropy by the pixels is exactly 0 for {flat} {whose}, and an attack stands still."
        )
        do = (
            "Look for rounding, thresholds, detached tensors or logits of huge scale in the network; let the attack "
            "go around them, or use one that needs no gradient, such as Square."
        )
        return Finding("gradient", says, "certain" if 2 * flat > n else "likely", do)
    if at_least(rounded, n, 0.5) < SURPRISING:
        says = (
            f"The logits are so large that in float32 the gradient of cross-entropy is rounding for {rounded} {whose}."
        )
        do = "Attack a loss that does not depend on their scale (AutoAttack's DLR), or divide the logits by a constant."
        return Finding("gradient", says, "possible", do)
    return None


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Of each image's loss by its pixels: no finite number, exactly zero, or (by its logits) not what float64 has."""

    wild: Tensor
    flat: Tensor
    rounded: Tensor


def _slopes(patient: Patient, x: Float[Tensor, "N C H W"]) -> _Slopes:
    grads, answers = [], []

    def loss(x: Tensor, y: Tensor) -> Tensor:
        answers.append(patient.logits(x))
        return cross_entropy(answers[-1], y, reduction="sum") + 0 * x.sum()  # zero, not an error, where x is detached

    for part, y in zip(x.split(CHUNK), patient.y.split(CHUNK), strict=True):
        grads.append(input_gradient(lambda x, y=y: loss(x, y), part))
    grad, z = torch.cat(grads), torch.cat(answers).detach()
    rough = input_gradient(lambda z: cross_entropy(z, patient.y, reduction="sum"), z)
    others = z.double().softmax(1).scatter(1, patient.y[:, None], 0)
    fine = others.scatter(1, patient.y[:, None], -others.sum(1, keepdim=True))
    rounded = (rough - fine).norm(dim=1) >= fine.norm(dim=1) / 2
    return _Slopes(~grad.isfinite().flatten(1).all(1), (grad == 0).flatten(1).all(1), rounded)


def _off(a: Float[Tensor, "n K"], b: Float[Tensor, "n K"]) -> Tensor:
    """Which answers (n) are not the same but for rounding."""
    largest = max(float(each.abs().masked_fill(each.isinf(), 0).max()) for each in (a, b))
    return ~((a - b).abs().masked_fill(a == b, 0).amax(1) <= ROUNDING * largest)


def _apart(a: Float[Tensor, "n K"], b: Float[Tensor, "n K"]) -> str:
    return f"by up to {float((a - b).abs().max()):.2g} in logits of up to {float(a.abs().max()):.2g}"
