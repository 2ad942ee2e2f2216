"""Evaluate a classifier under an attack of your own, and look at the images that fooled it.

python examples/own_attack.py [FOLDER]
"""

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import unshaken
from unshaken.attacks.ball import Ball, Linf
from unshaken.attacks.base import Attack, loss_of
from unshaken.attacks.pgd import input_gradient


@dataclass(frozen=True)
class MomentumAttack(Attack):
    """Gradient ascent with momentum on the sign of the gradient (MI-FGSM, arXiv:1710.06081)."""

    ball: Ball = Linf(0.1)
    steps: int = 10
    decay: float = 1.0

    def __call__(self, model, x: Tensor, y: Tensor | None, key) -> Tensor:
        # With labels, the loss is cross-entropy; without, as in pre-training, `model` is itself the loss to be raised.
        loss, x_adv, velocity = loss_of(model, y), x, torch.zeros_like(x)
        for _ in range(self.steps):
            grad = input_gradient(loss, x_adv)
            velocity = self.decay * velocity + grad / grad.abs().mean((-3, -2, -1), keepdim=True).clamp_min(1e-12)
            x_adv = self.ball.project(self.ball.ascend(x_adv, velocity, self.ball.eps / self.steps), x)
        return x_adv


def brighter(model, x: Tensor, y: Tensor, key) -> Tensor:
    """A function is an attack too. Its images are checked: they lie in the ball of the evaluation and in [0, 1]."""
    return (x + 0.1).clamp(max=1)


folder = sys.argv[1] if len(sys.argv) > 1 else "runs"
workspace = unshaken.Workspace(folder, quiet=True)
data = unshaken.DataSource("digits", limit=512)

# The same attack in pre-training: every method that attacks has a field for it.
recipe = unshaken.recipe("acl/digits")
method = replace(recipe.method, attack=MomentumAttack(steps=2))
encoder = unshaken.pretrain(replace(recipe, method=method, data=data, epochs=1), workspace)
classifier = unshaken.finetune(encoder, replace(unshaken.finetune_recipe(encoder, "slf", data), epochs=10), workspace)

for attack in (None, MomentumAttack(), brighter):
    result = unshaken.evaluate(classifier, workspace=workspace, attack=attack, examples=16)
    name, robust = getattr(attack, "__name__", type(attack).__name__) if attack else "PGD-20", result["robust"]
    print(f"{name}: {robust['correct']} of {robust['n']} withstand it, {result['file']}.json")
    print("  ", ", ".join(result.examples.captions[:4]))
