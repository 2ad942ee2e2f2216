"""A step of ACL and of AIR as published: float32, planes, streams apart, an attack that fills all gradients."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.literal.contrast import nt_xent
from bench.literal.selection import Attack
from unshaken.nets.network import Network


@dataclass(eq=False)
class Literal:
    """A network of its own that learns by LARS, tensor after tensor. `air`: λ₁ = λ₂ of AIR's two terms; 0 is ACL."""

    net: Network
    attack: Attack
    tau: float
    air: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-6
    trust: float = 0.001

    def __post_init__(self) -> None:
        self.net = copy.deepcopy(self.net).to(memory_format=torch.contiguous_format).train()
        self.buffers = [torch.zeros_like(p) for p in self.net.parameters()]

    def attacked(self, views: Tensor, rng: torch.Generator) -> Tensor:
        self.net.eval()
        x_adv = self.attack(self.net, lambda x: nt_xent(self.net(x, "adv"), self.tau), views, rng)
        self.net.train()
        return x_adv

    def update(self, views: Tensor, image: Tensor, rng: torch.Generator, rate: float) -> float:
        """One step; the loss before it."""
        loss = self.backward(self.attacked(views, rng), views, image)
        self.move(rate)
        return loss

    def backward(self, x_adv: Tensor, views: Tensor, image: Tensor) -> float:
        self.net.zero_grad()
        z_adv, z = self.net(x_adv, "adv"), self.net(views, "clean")
        loss = nt_xent(z_adv, self.tau) + nt_xent(z, self.tau)
        if self.air:
            original = self.net(image, "clean")
            loss = loss + self.air * (self.divergence(z, z, original) + self.divergence(z_adv, z, original))
        loss.backward()
        return loss.item()

    def divergence(self, z_adv: Tensor, z: Tensor, original: Tensor) -> Tensor:
        """KL of the views' products p(y|x̃) p(x̃|x), from whole matrices of all pairs, of which a diagonal is used."""
        p, q = (self.probability(z_adv[v], original) * self.probability(z_adv[v], z[v]) for v in (0, 1))
        return (p * (p / q).log()).sum()

    def probability(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = nn.functional.normalize(a, dim=1), nn.functional.normalize(b, dim=1)
        return (a @ b.T / self.tau).diagonal().softmax(0)

    @torch.no_grad()
    def move(self, rate: float) -> None:
        for p, buffer in zip(self.net.parameters(), self.buffers, strict=True):
            w, g = p.norm().item(), p.grad.norm().item()
            ratio = self.trust * w / (g + self.weight_decay * w) if w > 0 and g > 0 else 1.0
            buffer.mul_(self.momentum).add_(p.grad + self.weight_decay * p, alpha=rate * ratio)
            p.sub_(buffer)
