"""Counted floating-point operations: no clock, no machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def counted(work: Callable[[], Any]) -> int:
    """Count products and convolutions; a multiplication is one operation, and so is an addition."""
    with Counter() as counter:
        work()
    return counter.total


class Counter(TorchDispatchMode):
    """Count by PyTorch's formulas. Its FlopCounterMode follows modules too, which fails under `autograd.grad`."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=made)
        return made
