"""RCS as released: gains of averaged gradients, another distance, and two steps for each pick.

GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef, small_scale_datasets/RCS.py.
"""

from __future__ import annotations

from unshaken.coreset.gradients import Theta
from unshaken.losses.divergence import Distance

DISTANCE: Distance = "minmax"
"""The code's KL, which is no divergence of distributions (`minmax_rows`)."""

MOVES = 2
"""The code moves θ′ twice for each pick, since two names refer to the same parameters."""


def average_outputs(r: Theta) -> Theta:
    """Return the direction whose inner product with any q is ⟨mean over outputs of q, mean over outputs of r⟩.

    The code averages each gradient over the outputs of a layer. For a classifier that is zero except for rounding.
    """
    return {name: (value.mean(0) / len(value)).expand_as(value) for name, value in r.items()}
