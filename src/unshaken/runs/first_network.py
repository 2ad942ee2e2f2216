"""The network before the first step of a pre-training, with its initial weights and its teacher"""

from __future__ import annotations

import copy

from torch import nn

from unshaken.nets.network import Network
from unshaken.recipes.pretrain import Pretrain
from unshaken.runs.encoder import PretrainedEncoder


def first_network(
    recipe: Pretrain,
    classes: tuple[int, ...] = (),
    teacher: PretrainedEncoder | None = None,
    start: PretrainedEncoder | None = None,
) -> Network:
    """Return the network before the first step, with its initial weights and its teacher."""
    net = recipe.build_network(classes)
    if start:
        start.load_into(net.encoder)
    if recipe.method.teacher == "frozen" and teacher:
        net.teacher = Network(teacher.clean_route(), nn.Identity())
    elif recipe.method.teacher == "momentum":
        net.teacher = copy.deepcopy(net)
    return net
