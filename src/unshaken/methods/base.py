"""What a method is, and Step: a method and its network as the one module that learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.types import Batch, LossTerms
from unshaken.nets.network import MethodState, Network


@dataclass(frozen=True)
class Method(ABC):
    """A subclass's fields are its hyper-parameters, its methods its equations.

    routes   the batch-norm routes that it needs; the first is the one that sees clean images
    views    of each image that it takes
    frozen   parts of the network that do not learn: no gradient, eval mode
    teacher  "frozen": a trained encoder; "momentum": the network as it was at first, which follows it and is what is
             kept in the end; "": none
    labels   "true": the labels of the images; "clusters": of a teacher's features; "": none
    memory   names of scalars that it carries from step to step
    """

    routes: ClassVar[tuple[str, ...]]
    views: ClassVar[int] = 2
    frozen: ClassVar[tuple[str, ...]] = ()
    teacher: ClassVar[Literal["", "frozen", "momentum"]] = ""
    labels: ClassVar[Literal["", "true", "clusters"]] = ""
    memory: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        """Scalars by name, "loss" among them. h is in train mode but for its frozen parts, and is left so."""


class Step(nn.Module):
    """The unit that is trained, moved between devices, and distributed."""

    def __init__(self, method: Method, net: Network) -> None:
        super().__init__()
        self.method, self.net = method, net
        net.memory = MethodState(method.memory) if method.memory else None
        for name in (*method.frozen, *(["teacher"] if method.teacher else [])):
            net.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Step:
        super().train(mode)
        for name in self.method.frozen:
            self.net.get_submodule(name).eval()
        if self.method.teacher == "frozen":
            self.net.teacher.eval()
        return self

    policy: Callable[[Method, Batch, Clock], Method] | None = None
    """The policy for the method's attacks (train/attack_policy.py); None: they run as the method states them."""

    def forward(self, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        method = self.method if self.policy is None else self.policy(self.method, batch, clock)
        return method.loss(self.net, batch, clock, key)
