"""Checks of the gradient by the pixels: not finite, exactly zero, or only rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unshaken.attacks.pgd import input_gradient
from unshaken.base.types import Float
from unshaken.diagnostics.subject import CHUNK, SURPRISING, Finding, ModelUnderTest, binomial_tail, exceeds_share


def gradient(model: ModelUnderTest) -> Finding | None:
    """Report a gradient that is not finite, exactly zero or only rounding, at correctly classified images or near them.

    Where the label's probability rounds to 1, its logit has no gradient any more: the error of the gradient by the
    logits in float32 is then about as long as the true gradient, Σ_{k≠y} p_k (e_k − e_y).
    """
    correct = model.subset(model.is_correct)
    n = len(correct.x)
    if not n:
        return None
    near = correct.ball.sample(correct.x, (correct.key / "gradient").on(correct.x.device))
    at, beside = _slopes(correct, correct.x), _slopes(correct, near)
    wild, flat, rounded = (at.wild | beside.wild), (at.flat & beside.flat), (at.rounded & beside.rounded)
    return _vanished(int(wild.sum()), int(flat.sum()), int(rounded.sum()), n)


def _vanished(wild: int, flat: int, rounded: int, n: int) -> Finding | None:
    whose = f"of {n} correctly classified images"
    if exceeds_share(wild, n):
        says = f"The gradient of cross-entropy by the pixels is not finite for {wild} {whose}."
        return Finding("gradient", says, "certain", "Find where the network's backward pass overflows or divides by 0.")
    if exceeds_share(flat, n):
        says = (
            f"The gradient of cross-entropy by the pixels is exactly 0 for {flat} {whose}, so an attack does not move."
        )
        do = (
            "Look for rounding, thresholds, detached tensors or logits of huge scale in the network; let the attack "
            "avoid them, or use an attack that needs no gradient, such as Square."
        )
        return Finding("gradient", says, "certain" if 2 * flat > n else "likely", do)
    if binomial_tail(rounded, n, 0.5) < SURPRISING:
        says = (
            f"The logits are so large that the gradient of cross-entropy in float32 is rounding for {rounded} {whose}."
        )
        do = "Attack a loss that does not depend on their scale (AutoAttack's DLR), or divide the logits by a constant."
        return Finding("gradient", says, "possible", do)
    return None


@dataclass(frozen=True, eq=False)
class _Slopes:
    """For each image (N): the gradient is not finite; it is zero; by the logits, it differs from float64."""

    wild: Tensor
    flat: Tensor
    rounded: Tensor


def _slopes(model: ModelUnderTest, x: Float[Tensor, "N C H W"]) -> _Slopes:
    grads, answers = [], []

    def loss(x: Tensor, y: Tensor) -> Tensor:
        answers.append(model.logits(x))
        return cross_entropy(answers[-1], y, reduction="sum") + 0 * x.sum()  # zero, not an error, where x is detached

    for chunk, y in zip(x.split(CHUNK), model.y.split(CHUNK), strict=True):
        grads.append(input_gradient(lambda x, y=y: loss(x, y), chunk))
    grad, z = torch.cat(grads), torch.cat(answers).detach()
    rough = input_gradient(lambda z: cross_entropy(z, model.y, reduction="sum"), z)
    others = z.double().softmax(1).scatter(1, model.y[:, None], 0)
    fine = others.scatter(1, model.y[:, None], -others.sum(1, keepdim=True))
    rounded = (rough - fine).norm(dim=1) >= fine.norm(dim=1) / 2
    return _Slopes(~grad.isfinite().flatten(1).all(1), (grad == 0).flatten(1).all(1), rounded)
