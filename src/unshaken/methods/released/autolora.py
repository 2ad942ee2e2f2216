"""AutoLoRa as released: another accuracy SA, and another rule for the learning rate.

GodXuxilie/RobustSSL_Benchmark, Finetuning_Methods/AutoLoRa at 19dc714.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from unshaken.nets.lora import branch
from unshaken.nets.network import Encoder


def measured(encoder: Encoder, route: str) -> AbstractContextManager[None]:
    """Leave the branch off where all images share one route: the code does not pass on the flag that turns it on."""
    return branch(encoder) if route == "clean" else nullcontext()


def may_halve(halved: bool, first: bool) -> bool:
    """Return whether condition 2 can apply: at all checkpoints except the first, even right after a halving.

    The code compares η with a copy of itself, which is always equal.
    """
    return not first
