"""Checks of normalisation: a network that does better if images are normalised otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from unshaken.diagnostics.subject import Finding, ModelUnderTest, is_better
from unshaken.nets.backbone import IMAGENET_MEAN, IMAGENET_STD
from unshaken.nets.network import Normalize

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations of the channels."""


def normalisation(model: ModelUnderTest) -> Finding | None:
    """Report if the network does better on images that are normalised once more, or once less."""
    tried = list(_alternatives(model))
    found = []
    for what, do, x in tried:
        now = model.correct_on(x)
        found.append((int((now & ~model.is_correct).sum()), int((model.is_correct & ~now).sum()), what, do))
    gained, lost, what, do = max(found, key=lambda each: each[0] - each[1])
    if not is_better(gained, lost, len(tried)):
        return None
    right, n = int(model.is_correct.sum()), len(model.x)
    says = f"Of {n} images {right} are classified correctly, but {right + gained - lost} when {what}."
    return Finding("normalisation", says, "likely", do)


def _alternatives(model: ModelUnderTest) -> Iterator[tuple[str, str, Tensor]]:
    """Yield other ways to prepare the images, what they would mean, and the images prepared like that."""
    missing = "The network seems to be trained on normalised pixels: give it that normalisation as its first layer."
    double = "The pixels seem to be normalised twice: do it once, within the network."
    for mean, std in _normalisations(model):
        m, s = (model.x.new_tensor(v).view(-1, 1, 1) for v in (mean, std))
        named = f"mean {_listed(mean)}, std {_listed(std)}"
        yield f"they are normalised once more ({named})", missing, (model.x - m) / s
        yield f"a normalisation ({named}) is undone before", double, model.x * s + m
    scale = "The network seems to be trained on pixels of 0 to 255: multiply by 255 within it, as its first layer."
    yield "their pixels are multiplied by 255", scale, 255 * model.x


def _normalisations(model: ModelUnderTest) -> list[Normalisation]:
    """Return the common normalisations, ½, and the one of these images, without those that nearly equal another."""
    half = (0.5,) * model.x.shape[1]
    theirs = (tuple(model.x.mean((0, 2, 3)).tolist()), tuple(model.x.std((0, 2, 3)).tolist()))
    found = [((0.0,) * len(half), (1.0,) * len(half))]
    for mean, std in [*common_normalisations(model), (half, half), theirs]:
        near = [max(abs(a - b) for a, b in zip(mean + std, m + s, strict=True)) < 0.06 for m, s in found]
        if min(std) > 0 and not any(near):
            found.append((mean, std))
    return found[1:]


def _listed(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def common_normalisations(model: ModelUnderTest) -> list[Normalisation]:
    """Return the network's own normalisation and ImageNet's."""
    channels = model.x.shape[1]
    layers = [layer for layer in model.net.modules() if isinstance(layer, Normalize)] if model.net else []
    own = [tuple(tuple(v.flatten().tolist()) for v in (layer.mean, layer.std)) for layer in layers]
    found = [*own, (IMAGENET_MEAN, IMAGENET_STD)]
    return [(mean, std) for mean, std in found if len(mean) == channels and min(std) > 0]
