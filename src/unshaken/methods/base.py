"""Method, the base class of all methods, and Step, the module that is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unshaken.attacks.base import Attack, Loss
from unshaken.base.rng import Key
from unshaken.base.schedule import Clock
from unshaken.base.shared_batch import sharing
from unshaken.base.types import Batch, Float, LossTerms
from unshaken.nets.network import MethodState, Network, frozen


@dataclass(frozen=True)
class Method(ABC):
    """A method of training: its fields are the hyper-parameters, its functions the equations of the paper.

    routes   names of the batch-norm routes that it uses; clean images go through the first one
    views    number of views of each image that it takes
    frozen   submodules of the network that do not learn: they get no gradient and stay in eval mode
    teacher  "frozen": a trained encoder. "momentum": a moving average of the network, which is also what training
             returns. "": none
    labels   "true": the labels of the data set. "clusters": pseudo-labels from the features of a teacher. "": none
    memory   names of the scalars that it carries from step to step, in `h.memory`
    score    the term of the loss that a constant answer has at `constant`, another term; a run that scores no better
             has collapsed (train/guard.py). "": none
    rates    submodules with learning rates of their own, and the fields that have them as multiples of the schedule's
    """

    routes: ClassVar[tuple[str, ...]] = ("clean",)
    views: ClassVar[int] = 2
    frozen: ClassVar[tuple[str, ...]] = ()
    teacher: ClassVar[Literal["", "frozen", "momentum"]] = ""
    labels: ClassVar[Literal["", "true", "clusters"]] = ""
    memory: ClassVar[tuple[str, ...]] = ()
    score: ClassVar[str] = ""
    rates: ClassVar[dict[str, str]] = {}

    @property
    def updates_per_batch(self) -> int:
        """The updates on each batch, all with the same attack: the field `updates` of methods that make several."""
        return getattr(self, "updates", 1)

    @abstractmethod
    def loss(self, h: Network, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        """Return scalars by name; "loss" is the one to minimise, the others are logged.

        h is in train mode except for its frozen submodules, and every module is in the same mode afterwards.
        """


def run_attack(
    attack: Attack, h: nn.Module, loss: Loss, x: Float[Tensor, "... C H W"], key: Key
) -> Float[Tensor, "... C H W"]:
    """Return adversarial images that raise `loss` while h is in eval mode and none of its parameters changes.

    x is in [0, 1], and so is the result, which lies in the attack's ball around x.
    """
    with frozen(h):
        return attack(loss, x, None, key / "attack")


class Step(nn.Module):
    """A method and its network as one module: the unit that is trained, moved between devices and distributed.

    average       the average of the weights so far (train/averaging.py); None: there is none
    guard         the last sound weights (train/guard.py); None: there is none
    kept          the best weights so far (train/best_weights.py); None: the run returns its last or averaged ones
    clip          the largest norm of all gradients together; 0: any
    frozen_norms  keep the encoder's batch norms in eval mode, so that their statistics do not change
    """

    def __init__(self, method: Method, net: Network) -> None:
        super().__init__()
        self.method, self.net = method, net
        self.average: nn.Module | None = None
        self.guard: nn.Module | None = None
        self.kept: nn.Module | None = None
        self.frozen_norms, self.clip = False, 0.0
        net.memory = MethodState(method.memory) if method.memory else None
        for name in (*method.frozen, *(["teacher"] if method.teacher else [])):
            net.get_submodule(name).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Step:
        """Set the mode as usual, but keep frozen submodules and a frozen teacher in eval mode."""
        super().train(mode)
        for name in self.method.frozen:
            self.net.get_submodule(name).eval()
        if self.method.teacher == "frozen":
            self.net.teacher.eval()
        if self.frozen_norms:
            for module in self.net.encoder.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    policy: Callable[[Method, Batch, Clock], Method] | None = None
    """The policy for the method's attacks (train/attack_policy.py); None: they run as the method states them."""

    def forward(self, batch: Batch, clock: Clock, key: Key) -> LossTerms:
        method = self.method if self.policy is None else self.policy(self.method, batch, clock)
        with sharing(batch.rows, batch.count):
            terms = method.loss(self.net, batch, clock, key)
        if not (isinstance(terms, dict) and "loss" in terms):
            kind = type(self.method).__name__
            raise ValueError(
                f'{kind}.loss returns a dictionary of scalars with the key "loss", not a {type(terms).__name__}'
            )
        return terms
