"""Checks of images, logits, ε and accuracy that need no further forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from unshaken.attacks.ball import Linf
from unshaken.base.types import Float
from unshaken.diagnostics.normalisation_checks import common_normalisations
from unshaken.diagnostics.subject import SURPRISING, Finding, ModelUnderTest, binomial_tail, exceeds_share


def pixels(model: ModelUnderTest) -> Finding | None:
    """Report images outside [0, 1] by more than rounding, on the scale of 0 to 255, or divided by 255 twice."""
    x = model.x
    low, high = float(x.min()), float(x.max())
    seen = f"The pixels lie in [{low:.4g}, {high:.4g}]"
    if not x.isfinite().all():
        return Finding("pixels", "Some pixels are not finite.", "certain", "Check how the images are read.")
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


def logits(model: ModelUnderTest) -> Finding | None:
    """Report outputs that are not finite logits, one for each class and image: probabilities, for example."""
    z, n = model.clean, len(model.x)
    shape = "x".join(map(str, z.shape))
    if z.ndim != 2 or len(z) != n or z.shape[1] <= int(model.y.max()):
        says = f"For {n} images with labels up to {int(model.y.max())} the outputs have the shape {shape}."
        return Finding(
            "logits", says, "certain", "Let the network return one logit for each class, two for two classes."
        )
    masked = z == -torch.inf  # as is common for a class without images
    masked[:, model.y.unique()] = False
    if broken := int((~z.isfinite() & ~masked).any(1).sum()):
        says = f"The outputs for {broken} of {n} images are not all finite numbers."
        return Finding("logits", says, "certain", "Find where the network overflows; float16 layers often do.")
    if z.min() < 0 or z.max() > 1 or z.min() == z.max():
        return None
    do = "Return the input of the {}, not its output: after it the gradients of attacks vanish."
    if (z.sum(1) - 1).abs().max() < 1e-3:
        says = f"The outputs for all {n} images lie in [0, 1] and sum to 1: they are probabilities, not logits."
        return Finding("logits", says, "certain", do.format("softmax"))
    if z.min() < 0.01 and z.max() > 0.99:
        says = f"All outputs lie in [0, 1], from {float(z.min()):.3g} to {float(z.max()):.3g}, as a sigmoid's do."
        return Finding("logits", says, "likely", do.format("sigmoid"))
    return None


def eps(model: ModelUnderTest) -> Finding | None:
    """Report an ε that rounding removes, one at which classes meet, and one divided by a standard deviation."""
    ball, x = model.ball, model.x
    linf = isinstance(ball, Linf)
    level = ball.eps * 255  # in l2 and l1 too, a single pixel may use all of it
    named = f"ε = {ball.eps:.4g} ({ball.norm})"
    if level < (0.5 if linf else 1):
        says = f"{named} is {level:.2g} of 255 grey levels a pixel, which rounding to 8 bits removes."
        do = (
            f"ε is in units of a pixel in [0, 1]: was it divided by 255 once too often, and {255 * ball.eps:.3g} meant?"
        )
        return Finding("eps", says, "likely", do)
    near = _distance_to_other_classes(model)
    meet, n = int((near <= 2 * ball.eps).sum()), len(x)
    if exceeds_share(meet, n, share=0.05):
        says = (
            f"{meet} of {n} images have an image of another class within 2ε, so no classifier can be robust at "
            f"{named} on both."
        )
        do = "ε is in units of a pixel in [0, 1], such as 8/255: is it one of 0 to 255, or of a normalised image?"
        return Finding("eps", says, "certain", do)
    return _divided_by_std(ball.eps, named, model) if linf else None


def _distance_to_other_classes(model: ModelUnderTest) -> Float[Tensor, "N"]:
    """Return the distance to the nearest image of another class, else ∞. Equal images are ignored: a label is wrong."""
    x, y = model.x.flatten(1), model.y
    # without the faster mode, so that equal images have distance 0
    apart = torch.cdist(x, x, p=model.ball.power, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.masked_fill((y[:, None] == y) | (apart == 0), torch.inf).amin(1)


def _divided_by_std(eps: float, named: str, model: ModelUnderTest) -> Finding | None:
    """Report if ε is not a round number, as 8/255 or 0.1 is, but ε times a standard deviation is one."""
    levels, thousandths = 255 * eps, 1000 * eps
    if abs(levels - round(levels)) < 1e-3 or abs(thousandths - round(thousandths)) < 1e-3:
        return None
    for std in sorted({s for _, stds in common_normalisations(model) for s in (*stds, sum(stds) / len(stds))}):
        meant = levels * std
        if meant > 0.9 and abs(meant - round(meant)) < 5e-4 * meant:
            says = f"{named} is {round(meant)}/255 divided by a standard deviation of {std:.4g}."
            return Finding("eps", says, "likely", f"Give ε in units of a pixel in [0, 1]: {round(meant)}/255.")
    return None


def accuracy(model: ModelUnderTest) -> Finding | None:
    """Report answers that agree with the labels no more than independent answers would."""
    z, y, n = model.clean, model.y, len(model.y)
    counts = [torch.bincount(each.cpu(), minlength=z.shape[1]).double() for each in (z.argmax(1), y)]
    guessing = float((counts[0] * counts[1]).sum()) / n**2
    right = int(model.is_correct.sum())
    if binomial_tail(n, n, guessing) > SURPRISING or binomial_tail(right, n, guessing) <= 0.01:
        return None  # too few images, or one class; or the answers do depend on the labels
    says = (
        f"{right} of {n} images are classified correctly, and guessing would give {guessing * n:.0f}; always naming "
        f"the most frequent class is correct on {int(counts[1].max())}."
    )
    do = "Check that the classes are in the order of the labels, the images fit the network, and it was trained."
    return Finding("accuracy", says, "likely", do)
