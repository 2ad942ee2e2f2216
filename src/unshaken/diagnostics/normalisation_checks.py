"""Normalisation: whether a network is better at images that are normalised once more, or once less"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from unshaken.diagnostics.subject import Finding, ModelUnderTest, significantly_more
from unshaken.nets.backbone import IMAGENET_MEAN, IMAGENET_STD
from unshaken.nets.network import Normalize

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations, one a channel."""


def normalisation(patient: ModelUnderTest) -> Finding | None:
    """Whether the network is better at images that are normalised once more, or once less."""
    tried = list(_otherwise(patient))
    found = []
    for what, do, x in tried:
        now = patient.correct(x)
        found.append((int((now & ~patient.right).sum()), int((patient.right & ~now).sum()), what, do))
    gained, lost, what, do = max(found, key=lambda each: each[0] - each[1])
    if not significantly_more(gained, lost, len(tried)):
        return None
    right, n = int(patient.right.sum()), len(patient.x)
    says = f"Of {n} images {right} are classified rightly, but {right + gained - lost} of them when {what}."
    return Finding("normalisation", says, "likely", do)


def _otherwise(patient: ModelUnderTest) -> Iterator[tuple[str, str, Tensor]]:
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


def _normalisations(patient: ModelUnderTest) -> list[Normalisation]:
    """The usual ones, ½, and these images'; each that has an effect of its own."""
    half = (0.5,) * patient.x.shape[1]
    theirs = (tuple(patient.x.mean((0, 2, 3)).tolist()), tuple(patient.x.std((0, 2, 3)).tolist()))
    found = [((0.0,) * len(half), (1.0,) * len(half))]
    for mean, std in [*usual(patient), (half, half), theirs]:
        near = [max(abs(a - b) for a, b in zip(mean + std, m + s, strict=True)) < 0.06 for m, s in found]
        if min(std) > 0 and not any(near):
            found.append((mean, std))
    return found[1:]


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def usual(patient: ModelUnderTest) -> list[Normalisation]:
    """The network's own, and ImageNet's."""
    channels = patient.x.shape[1]
    inside = [part for part in patient.net.modules() if isinstance(part, Normalize)] if patient.net else []
    own = [tuple(tuple(v.flatten().tolist()) for v in (part.mean, part.std)) for part in inside]
    known = [*own, (IMAGENET_MEAN, IMAGENET_STD)]
    return [(mean, std) for mean, std in known if len(mean) == channels and min(std) > 0]
