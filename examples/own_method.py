"""Pre-train by a method of your own: a frozen dataclass with one equation.

    python examples/own_method.py [FOLDER]

The command line trains by it too: unshaken pretrain --recipe examples/own_method.py:recipe
"""

import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

import unshaken
from unshaken.losses import nt_xent
from unshaken.methods.base import run_attack


@dataclass(frozen=True)
class Blend(unshaken.Method):
    """A contrastive loss of attacked views, with a weight on the clean ones."""

    attack: unshaken.PGD = unshaken.PGD(unshaken.Linf(0.1), steps=3)
    clean: float = 0.5
    """The weight of the clean term."""

    routes: ClassVar = ("clean", "adv")  # clean and attacked images have batch-norm statistics of their own

    def loss(self, h, batch, clock, key):
        """h is the network, batch.views (V, N, C, H, W) the views; returns scalars, of which "loss" is minimised."""

        def harm(x_adv: Tensor) -> Tensor:
            return nt_xent(h(x_adv, "adv"), 0.5)

        x_adv = run_attack(self.attack, h, harm, batch.views, key)
        adv, clean = nt_xent(h(x_adv, "adv"), 0.5), nt_xent(h(batch.views, "clean"), 0.5)
        return {"loss": (1 - self.clean) * adv + self.clean * clean, "adv": adv, "clean": clean}


def recipe():
    """The recipe of `acl/digits` with this method."""
    return replace(unshaken.recipe("acl/digits"), method=Blend(), name="blend")


def main(folder: str) -> None:
    torch.set_num_threads(1)
    wanted = replace(recipe(), epochs=1, data=unshaken.DataSource("digits", limit=256))
    encoder = unshaken.pretrain(wanted, unshaken.Workspace(folder, quiet=True))
    print(f"an encoder by Blend: {encoder}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs")
