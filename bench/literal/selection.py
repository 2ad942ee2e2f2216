"""RCS as it was published, in its clean mathematics: float32, whole networks, U attacked and embedded after each pick.

Of the published code (GodXuxilie/Efficient_ACL_via_RCS at 6fc9aef) this has the cost and the order of things, and not
the defects: gradients are whole, θ′ moves once a pick, and U is seen once an image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.literal.contrast import nt_xent
from unshaken.nets.network import Network


@dataclass(frozen=True)
class Attack:
    """l∞, by loss.backward(), which also fills every gradient that nobody asked for."""

    eps: float
    steps: int
    stride: float

    def __call__(self, net: nn.Module, loss: Callable[[Tensor], Tensor], x: Tensor, rng: torch.Generator) -> Tensor:
        x_adv = (x + torch.empty_like(x).uniform_(-self.eps, self.eps, generator=rng)).clamp(x - self.eps, x + self.eps)
        x_adv = x_adv.clamp(0, 1)
        for _ in range(self.steps):
            x_adv = x_adv.detach().requires_grad_()
            loss(x_adv).backward()
            x_adv = x_adv + self.stride * x_adv.grad.sign()
            x_adv = torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps).clamp(0, 1)
            net.zero_grad()
        return x_adv.detach()


@dataclass(eq=False)
class Literal:
    """A selection on one network. The network given is not changed.

    views(b) -> (2 n C H W) of mini-batch b; noise(b) and noise(None) -> where the attack on it, and on U, starts
    """

    net: Network
    batches: int
    views: Callable[[int], Tensor]
    u: Tensor
    noise: Callable[[int | None], torch.Generator]
    attack: Attack
    attack_u: Attack
    tau: float
    eta: float

    def __post_init__(self) -> None:
        self.net = copy.deepcopy(self.net).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        self.linear = [module for module in self.net.head.modules() if isinstance(module, nn.Linear)]
        for layer in self.linear:
            layer.requires_grad_()

    def candidates(self) -> list[Tensor]:
        """q_b of every mini-batch: the gradient of ACL's loss by the head's linear layers, as one vector."""
        found = []
        for b in range(self.batches):
            x, net = self.views(b), self.net
            x_adv = self.attack(net, lambda x: nt_xent(net(x, "adv"), self.tau), x, self.noise(b))  # noqa: B023
            with torch.no_grad():
                f_adv, f = net.features(x_adv, "adv"), net.features(x, "clean")
            loss = nt_xent(self.head(f_adv, "adv"), self.tau) + nt_xent(self.head(f, "clean"), self.tau)
            found.append(self.gradient(loss))
        return found

    def picks(self, q: list[Tensor], count: int) -> list[int]:
        """Mini-batches in the order in which they are picked; the head is afterwards what it was."""
        chosen, start = [], [p.detach().clone() for p in self.parameters()]
        while len(chosen) < count:
            r = self.gradient(self.distance())
            gains = [float(one @ r) if b not in chosen else -torch.inf for b, one in enumerate(q)]
            chosen.append(max(range(len(q)), key=gains.__getitem__))
            self.move(self.eta, q[chosen[-1]])
        self.restore(start)
        return chosen

    def left(self, q: list[Tensor], chosen: list[int]) -> float:
        """L_RD(U; θ − η Σ q_b), U attacked anew there: what these mini-batches leave of it."""
        start = [p.detach().clone() for p in self.parameters()]
        self.move(self.eta, torch.stack([q[b] for b in chosen]).sum(0))
        found = float(self.distance().detach())
        self.restore(start)
        return found

    def distance(self) -> Tensor:
        """L_RD(U; θ): the mean over U of KL(softmax h(x̃) ‖ softmax h(x))."""
        net, u = self.net, self.u
        with torch.no_grad():
            z = net(u, "clean")
        u_adv = self.attack_u(net, lambda x: divergence(net(x, "adv"), z), u, self.noise(None))
        with torch.no_grad():
            f_adv, f = net.features(u_adv, "adv"), net.features(u, "clean")
        return divergence(self.head(f_adv, "adv"), self.head(f, "clean"))

    def head(self, f: Tensor, route: str) -> Tensor:
        self.net.head[1].switch.route = route
        return self.net.head(f.flatten(0, -2)).unflatten(0, f.shape[:-1])

    def parameters(self) -> list[Tensor]:
        return [p for layer in self.linear for p in layer.parameters()]

    def gradient(self, loss: Tensor) -> Tensor:
        self.net.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in self.parameters()])

    @torch.no_grad()
    def move(self, eta: float, q: Tensor) -> None:
        for p, part in zip(self.parameters(), q.split([p.numel() for p in self.parameters()]), strict=True):
            p -= eta * part.view_as(p)

    @torch.no_grad()
    def restore(self, start: list[Tensor]) -> None:
        for p, value in zip(self.parameters(), start, strict=True):
            p.copy_(value)


def divergence(z_adv: Tensor, z: Tensor) -> Tensor:
    """KL(softmax z_adv ‖ softmax z), the mean over rows."""
    p, q = z_adv.softmax(-1), z.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean()
